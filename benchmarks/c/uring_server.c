/* What a server in C costs on io_uring: uring_server echo|churn|udp. Prints "READY port".
 *
 * Multishot accept and receive, into buffers that the kernel picks from one ring of them. An echo is sent from the very
 * buffer it was received into, one send of a connection at a time, so nothing is copied and nothing overtakes. This is one
 * design, not a ceiling: the buffers' number and size decide much where messages are large. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFERS 1024
#define BUFFER_SIZE (64 * 1024)
#define CONNECTIONS 16384 /* by descriptor */
#define NONE (-1)

enum operation { ACCEPT, RECEIVE, SEND, RECEIVE_DATAGRAM, SEND_DATAGRAM };

struct connection {
    int first, last; /* received buffers, in order, the first of them being sent; NONE */
    unsigned sent;   /* of the first */
    char open, receiving, sending, ended, hungry; /* hungry: its receive ended for want of a buffer */
};

static struct io_uring ring;
static struct io_uring_buf_ring *buffer_ring;
static char *memory;
static int next_buffer[BUFFERS];
static unsigned filled[BUFFERS];
static struct connection connections[CONNECTIONS];
static int hungry[CONNECTIONS], hungry_count;
static int closes_after_reply;
static struct msghdr receive_header = {.msg_namelen = sizeof(struct sockaddr_in)}, send_headers[BUFFERS];
static struct iovec parts[BUFFERS];

static char *buffer_at(int id) { return memory + (size_t)id * BUFFER_SIZE; }

static struct io_uring_sqe *get_sqe(void) {
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&ring))) io_uring_submit(&ring);
    return sqe;
}

/* After the prep function: older ones of liburing's clear it. */
static void tag(struct io_uring_sqe *sqe, enum operation operation, unsigned what) {
    io_uring_sqe_set_data64(sqe, (uint64_t)operation << 32 | what);
}

static void start_accept(int listener) {
    struct io_uring_sqe *sqe = get_sqe();
    io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, 0);
    tag(sqe, ACCEPT, listener);
}

static void start_receive(int fd) {
    struct io_uring_sqe *sqe = get_sqe();
    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    tag(sqe, RECEIVE, fd);
    connections[fd].receiving = 1;
}

static void start_send(int fd) {
    struct connection *c = &connections[fd];
    struct io_uring_sqe *sqe = get_sqe();
    io_uring_prep_send(sqe, fd, buffer_at(c->first) + c->sent, filled[c->first] - c->sent, MSG_NOSIGNAL | MSG_WAITALL);
    tag(sqe, SEND, fd);
    c->sending = 1;
}

static void start_receive_datagrams(int fd) {
    struct io_uring_sqe *sqe = get_sqe();
    io_uring_prep_recvmsg_multishot(sqe, fd, &receive_header, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    tag(sqe, RECEIVE_DATAGRAM, fd);
}

static void give_back(int id) {
    io_uring_buf_ring_add(buffer_ring, buffer_at(id), BUFFER_SIZE, id, io_uring_buf_ring_mask(BUFFERS), 0);
    io_uring_buf_ring_advance(buffer_ring, 1);
    if (!hungry_count) return;
    int fd = hungry[--hungry_count];
    connections[fd].hungry = 0;
    if (connections[fd].open && !connections[fd].receiving) start_receive(fd);
}

static void drop_first(struct connection *c) {
    int id = c->first;
    c->first = next_buffer[id];
    c->sent = 0;
    give_back(id);
}

static void close_if_done(int fd) {
    struct connection *c = &connections[fd];
    if (!c->open || !c->ended || c->sending || c->first != NONE) return;
    if (c->receiving) {
        shutdown(fd, SHUT_RDWR); /* ends the receive, which comes here once more */
        return;
    }
    c->open = 0;
    close(fd);
}

static void accepted(const struct io_uring_cqe *cqe, int listener) {
    int one = 1;
    if (!(cqe->flags & IORING_CQE_F_MORE)) start_accept(listener);
    if (cqe->res < 0) return;
    if (cqe->res >= CONNECTIONS) {
        close(cqe->res);
        return;
    }
    setsockopt(cqe->res, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char was_hungry = connections[cqe->res].hungry; /* the number's owner before is still in that list */
    connections[cqe->res] = (struct connection){.first = NONE, .open = 1, .hungry = was_hungry};
    start_receive(cqe->res);
}

static void received(const struct io_uring_cqe *cqe, int fd) {
    struct connection *c = &connections[fd];
    if (!(cqe->flags & IORING_CQE_F_MORE)) c->receiving = 0;
    if (cqe->res > 0) {
        int id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        filled[id] = cqe->res;
        next_buffer[id] = NONE;
        if (c->ended) {
            give_back(id);
        } else {
            if (c->first == NONE) c->first = id;
            else next_buffer[c->last] = id;
            c->last = id;
            if (!c->sending) start_send(fd);
        }
    } else if (cqe->res == -ENOBUFS) {
        if (!c->hungry) hungry[hungry_count++] = fd;
        c->hungry = 1;
        return;
    } else {
        c->ended = 1;
    }
    if (!c->receiving && !c->ended) start_receive(fd);
    close_if_done(fd);
}

static void sent(const struct io_uring_cqe *cqe, int fd) {
    struct connection *c = &connections[fd];
    c->sending = 0;
    if (cqe->res <= 0) {
        c->ended = 1;
        while (c->first != NONE) drop_first(c);
    } else if ((c->sent += cqe->res) == filled[c->first]) {
        drop_first(c);
        c->ended |= closes_after_reply;
    }
    if (c->first != NONE) start_send(fd);
    close_if_done(fd);
}

static void received_datagram(const struct io_uring_cqe *cqe, int fd) {
    if (!(cqe->flags & IORING_CQE_F_MORE)) start_receive_datagrams(fd);
    if (cqe->res < 0) return;
    int id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    struct io_uring_recvmsg_out *out = io_uring_recvmsg_validate(buffer_at(id), cqe->res, &receive_header);
    if (!out) {
        give_back(id);
        return;
    }
    parts[id] = (struct iovec){io_uring_recvmsg_payload(out, &receive_header),
                               io_uring_recvmsg_payload_length(out, cqe->res, &receive_header)};
    send_headers[id] = (struct msghdr){.msg_name = io_uring_recvmsg_name(out), .msg_namelen = out->namelen,
                                       .msg_iov = &parts[id], .msg_iovlen = 1};
    struct io_uring_sqe *sqe = get_sqe();
    io_uring_prep_sendmsg(sqe, fd, &send_headers[id], 0);
    tag(sqe, SEND_DATAGRAM, id);
}

static int set_up(void) {
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, .cq_entries = 16384};
    int error = io_uring_queue_init_params(1024, &ring, &parameters);
    if (error == -EINVAL) { /* before Linux 6.1 */
        parameters = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN, .cq_entries = 16384};
        error = io_uring_queue_init_params(1024, &ring, &parameters);
    }
    if (error) return error;
    int protection = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    buffer_ring = mmap(NULL, BUFFERS * sizeof(struct io_uring_buf), protection, flags, -1, 0);
    memory = mmap(NULL, (size_t)BUFFERS * BUFFER_SIZE, protection, flags, -1, 0);
    if (buffer_ring == MAP_FAILED || memory == MAP_FAILED) return -ENOMEM;
    struct io_uring_buf_reg registration = {.ring_addr = (uintptr_t)buffer_ring, .ring_entries = BUFFERS};
    if ((error = io_uring_register_buf_ring(&ring, &registration, 0))) return error;
    io_uring_buf_ring_init(buffer_ring);
    for (int id = 0; id < BUFFERS; id++) give_back(id);
    return 0;
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "";
    int datagrams = !strcmp(kind, "udp");
    closes_after_reply = !strcmp(kind, "churn");
    if (!datagrams && !closes_after_reply && strcmp(kind, "echo")) return 2;
    signal(SIGPIPE, SIG_IGN);

    struct sockaddr_in address = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {0}};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, datagrams ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, length) || (!datagrams && listen(listener, 4096)) ||
        getsockname(listener, (struct sockaddr *)&address, &length)) {
        perror("listen");
        return 1;
    }
    int error = set_up();
    if (error) {
        fprintf(stderr, "io_uring: %s\n", strerror(-error));
        return 1;
    }
    if (datagrams) start_receive_datagrams(listener);
    else start_accept(listener);
    printf("READY %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        io_uring_submit_and_wait(&ring, 1);
        struct io_uring_cqe *cqe;
        unsigned head, seen = 0;
        io_uring_for_each_cqe(&ring, head, cqe) {
            unsigned what = (unsigned)cqe->user_data;
            seen++;
            switch ((enum operation)(cqe->user_data >> 32)) {
            case ACCEPT: accepted(cqe, what); break;
            case RECEIVE: received(cqe, what); break;
            case SEND: sent(cqe, what); break;
            case RECEIVE_DATAGRAM: received_datagram(cqe, what); break;
            case SEND_DATAGRAM: give_back(what); break;
            }
        }
        io_uring_cq_advance(&ring, seen);
    }
}
