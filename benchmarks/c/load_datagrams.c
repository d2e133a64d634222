/* Datagrams: each socket has at most one on its way, numbered, so that a late answer to one that was sent again is told
 * from a wrong one. The sockets take turns, and all together never have more on their way than fits into the server's
 * receive buffer: what the kernel drops would measure the time limit. */
#include "load.h"

#include <stdlib.h>
#include <string.h>

#define PATIENCE (SECOND / 2)
/* The least that a server's socket holds (net.core.rmem_default), which counts a datagram with its page's rest. */
#define SERVER_HOLDS (200 * 1024)

struct socket {
    int fd, waiting;
    uint64_t number, began, sent_at; /* began: when it was sent first */
};

static char *message;

static size_t offset_of(const struct socket *s) { return s->number * 1009 % PATTERN_PERIOD; }

static void send_one(struct socket *s) {
    memcpy(message, &s->number, sizeof s->number);
    memcpy(message + sizeof s->number, pattern + offset_of(s), options.size - sizeof s->number);
    if (send(s->fd, message, options.size, 0) != (ssize_t)options.size) fail("send");
    s->sent_at = now();
}

static void send_next(struct socket *s) {
    static uint64_t number;
    s->number = ++number;
    s->waiting = 1;
    s->began = now();
    send_one(s);
}

/* 1: the answer that was awaited. */
static int receive(struct socket *s) {
    ssize_t n = recv(s->fd, read_buffer, READ_SIZE, 0);
    uint64_t number;
    if (n < 0) {
        if (errno != EAGAIN) counts.broken++;
        return 0;
    }
    memcpy(&number, read_buffer, sizeof number);
    if (n == (ssize_t)options.size && (!s->waiting || number < s->number) && counts.resent) return 0;
    if (n != (ssize_t)options.size || !s->waiting || number != s->number ||
        memcmp(read_buffer + sizeof number, pattern + offset_of(s), options.size - sizeof number)) {
        counts.mismatched++;
        return 0;
    }
    s->waiting = 0;
    if (phase == OPEN) {
        counts.messages++;
        counts.bytes += options.size;
        histogram_add(&latencies, now() - s->began);
    }
    return 1;
}

void run_datagrams(void) {
    int epoll = epoll_create1(EPOLL_CLOEXEC), n = options.connections, next = 0, waiting = 0;
    struct socket *sockets = calloc(n, sizeof *sockets);
    if (!sockets || !(message = malloc(options.size))) fail("calloc");
    for (int i = 0; i < n; i++) {
        sockets[i].fd = open_socket(SOCK_DGRAM);
        make_nonblocking(sockets[i].fd);
        watch(epoll, sockets[i].fd, EPOLL_CTL_ADD, EPOLLIN, &sockets[i]);
    }
    int most = SERVER_HOLDS / (2 * options.size + 1024);
    most = most < 1 ? 1 : most > n ? n : most;
    window_plan(now());
    uint64_t looked = now();
    while (phase != CLOSED || (waiting && now() < window_closes + DRAIN_LIMIT)) {
        for (; phase != CLOSED && waiting < most; next = (next + 1) % n)
            if (!sockets[next].waiting) {
                send_next(&sockets[next]);
                waiting++;
            }
        struct epoll_event events[256];
        int ready = wait_for(epoll, events, 256, now() + SECOND / 50);
        for (int i = 0; i < ready; i++) waiting -= receive(events[i].data.ptr);
        uint64_t t = now();
        window_tick(t);
        if (t < looked + PATIENCE / 5) continue;
        looked = t;
        for (int i = 0; i < n; i++)
            if (sockets[i].waiting && t > sockets[i].sent_at + PATIENCE) {
                counts.resent++;
                send_one(&sockets[i]);
            }
    }
    counts.lost = waiting;
}
