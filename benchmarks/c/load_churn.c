/* Connections that live for one exchange: connect, send, read the same bytes and the end of the stream, close. */
#include "load.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

struct visit {
    int fd, active;
    size_t sent, received, offset;
    uint64_t began;
};

static int epoll;

static void begin(struct visit *v) {
    static unsigned number;
    struct sockaddr_in address = {AF_INET, htons(options.port), {htonl(INADDR_LOOPBACK)}, {0}};
    /* Many source addresses: each has its own ports, of which those in TIME_WAIT would soon run out. */
    struct sockaddr_in source = {AF_INET, 0, {htonl(INADDR_LOOPBACK + 1 + number++ % 200)}, {0}};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket");
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&source, sizeof source)) fail("bind");
    *v = (struct visit){.fd = fd, .active = 1, .offset = number % PATTERN_PERIOD, .began = now()};
    if (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) fail("connect");
    watch(epoll, fd, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLET, v);
}

static void end(struct visit *v) {
    close(v->fd);
    v->active = 0;
    if (phase != CLOSED) begin(v);
}

static void step(struct visit *v) {
    if (!v->active) return;
    while (v->sent < options.size) {
        ssize_t n = send(v->fd, pattern + v->offset + v->sent, options.size - v->sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) return;
        if (n < 0) {
            counts.broken++;
            end(v);
            return;
        }
        v->sent += n;
    }
    for (;;) {
        ssize_t n = recv(v->fd, read_buffer, READ_SIZE, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0 || (!n && v->received < options.size)) {
            counts.broken++;
            break;
        }
        if (!n) {
            if (phase == OPEN) {
                counts.messages++;
                counts.bytes += options.size;
                histogram_add(&latencies, now() - v->began);
            }
            break;
        }
        if (v->received + n > options.size || memcmp(read_buffer, pattern + v->offset + v->received, n)) {
            counts.mismatched++;
            break;
        }
        v->received += n;
    }
    end(v);
}

void run_churn(void) {
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct visit *visits = calloc(options.connections, sizeof *visits);
    if (!visits) fail("calloc");
    window_plan(now());
    for (int i = 0; i < options.connections; i++) begin(&visits[i]);
    int left = 1;
    while (left && (phase != CLOSED || now() < window_closes + DRAIN_LIMIT)) {
        struct epoll_event events[256];
        int n = wait_for(epoll, events, 256, now() + SECOND / 50);
        for (int i = 0; i < n; i++) step(events[i].data.ptr);
        window_tick(now());
        left = phase != CLOSED;
        for (int i = 0; phase == CLOSED && i < options.connections; i++) left += visits[i].active;
    }
    counts.lost = left;
}
