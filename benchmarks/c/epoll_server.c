/* What a server in C costs on epoll: epoll_server echo|churn|udp|sink|source. Prints "READY port".
 * Level-triggered, one read and one write a turn. It stops to read where a write finds no room. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_SIZE (256 * 1024)
#define CHUNK_SIZE (64 * 1024)

struct connection {
    int fd;
    char *rest; /* an echo that found no room */
    size_t rest_size, rest_sent;
    uint64_t total, asked, sent; /* sink: bytes so far. source: what was asked for, and how much of it is out */
};

static enum { ECHO, CHURN, UDP, SINK, SOURCE } kind;
static int epoll;
static char buffer[BUFFER_SIZE], chunk[CHUNK_SIZE];

static void watch(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll, operation, c->fd, &event);
}

static void end(struct connection *c) {
    close(c->fd);
    free(c->rest);
    free(c);
}

static void send_rest(struct connection *c) {
    ssize_t n = send(c->fd, c->rest + c->rest_sent, c->rest_size - c->rest_sent, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN) end(c);
        return;
    }
    c->rest_sent += n;
    if (c->rest_sent < c->rest_size) return;
    free(c->rest);
    c->rest = NULL;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void echo(struct connection *c, size_t size) {
    ssize_t n = send(c->fd, buffer, size, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        end(c);
        return;
    }
    size_t sent = n < 0 ? 0 : n;
    if (sent == size) {
        if (kind == CHURN) end(c);
        return;
    }
    c->rest_size = size - sent, c->rest_sent = 0;
    c->rest = malloc(c->rest_size);
    memcpy(c->rest, buffer + sent, c->rest_size);
    watch(c, EPOLL_CTL_MOD, EPOLLOUT);
}

/* As long as there is room; then it waits for some. */
static void send_chunks(struct connection *c) {
    while (c->sent < c->asked) {
        size_t from = c->sent % CHUNK_SIZE, size = CHUNK_SIZE - from;
        if (size > c->asked - c->sent) size = c->asked - c->sent;
        ssize_t n = send(c->fd, chunk + from, size, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) watch(c, EPOLL_CTL_MOD, EPOLLOUT);
            else end(c);
            return;
        }
        c->sent += n;
    }
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void serve(struct connection *c, uint32_t events) {
    if (c->rest) {
        send_rest(c);
        return;
    }
    if (kind == SOURCE && events & EPOLLOUT) {
        send_chunks(c);
        return;
    }
    ssize_t n = recv(c->fd, buffer, BUFFER_SIZE, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        if (!n && kind == SINK) send(c->fd, &c->total, sizeof c->total, MSG_NOSIGNAL);
        end(c);
    } else if (kind == SINK) {
        c->total += n;
    } else if (kind == SOURCE) {
        memcpy(&c->asked, buffer, sizeof c->asked);
        c->sent = 0;
        send_chunks(c);
    } else {
        echo(c, n);
    }
}

static void accept_all(int listener) {
    int one = 1;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void answer_datagrams(int fd) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    for (ssize_t n; (n = recvfrom(fd, buffer, BUFFER_SIZE, 0, (struct sockaddr *)&from, &length)) >= 0;)
        sendto(fd, buffer, n, 0, (struct sockaddr *)&from, length);
}

int main(int argc, char **argv) {
    static const char *kinds[] = {"echo", "churn", "udp", "sink", "source"};
    size_t number = 0;
    while (number < 5 && (argc < 2 || strcmp(argv[1], kinds[number]))) number++;
    if (number == 5) return 2;
    kind = number;
    for (size_t i = 0; i < CHUNK_SIZE; i++) chunk[i] = (i * 7 + (i >> 8) * 13) & 255;

    struct sockaddr_in address = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {0}};
    socklen_t length = sizeof address;
    struct connection listener = {.fd = socket(AF_INET, (kind == UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0)};
    if (bind(listener.fd, (struct sockaddr *)&address, length) || (kind != UDP && listen(listener.fd, 4096)) ||
        getsockname(listener.fd, (struct sockaddr *)&address, &length)) {
        perror("listen");
        return 1;
    }
    epoll = epoll_create1(0);
    watch(&listener, EPOLL_CTL_ADD, EPOLLIN);
    printf("READY %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr != &listener) serve(events[i].data.ptr, events[i].events);
            else if (kind == UDP) answer_datagrams(listener.fd);
            else accept_all(listener.fd);
        }
    }
}
