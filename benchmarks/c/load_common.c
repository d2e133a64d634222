/* Clocks, the window, the histogram and sockets of the load generator. */
#include "load.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

struct counts counts;
struct histogram latencies, lateness;
enum phase phase = WARMING;
uint64_t window_opens, window_closes;
char *pattern, read_buffer[READ_SIZE];

static uint64_t opened, closed, server_cpu[2], own_cpu[2];

static uint64_t read_clock(clockid_t clock) {
    struct timespec t;
    return clock_gettime(clock, &t) ? 0 : (uint64_t)t.tv_sec * SECOND + t.tv_nsec;
}

uint64_t now(void) { return read_clock(CLOCK_MONOTONIC); }

static void read_cpu(int end) {
    /* A process's CPU clock is its pid's complement and the bits of CPUCLOCK_SCHED. It counts all threads, those that
     * have ended and io_uring's workers included. */
    server_cpu[end] = options.server ? read_clock(((clockid_t)~options.server << 3) | 2) : 0;
    own_cpu[end] = read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

void window_plan(uint64_t start) {
    window_opens = start + (uint64_t)(options.warm_up * SECOND);
    window_closes = window_opens + (uint64_t)(options.seconds * SECOND);
}

void window_open(void) {
    phase = OPEN;
    opened = now();
    read_cpu(0);
}

void window_close(void) {
    phase = CLOSED;
    closed = now();
    read_cpu(1);
}

void window_tick(uint64_t t) {
    if (phase == WARMING && t >= window_opens) {
        window_open();
        /* Late, where the server or this program was busy: it is as long as was asked for. An open loop's messages
         * are counted by their intended times, so its window stays where it is. */
        if (!options.rate) window_closes = opened + (uint64_t)(options.seconds * SECOND);
    } else if (phase == OPEN && t >= window_closes) {
        window_close();
    }
}

void histogram_add(struct histogram *h, uint64_t ns) {
    size_t step = ns;
    if (ns >= 64) {
        int shift = 63 - __builtin_clzll(ns) - 6; /* leaves 64 to 127 */
        step = (size_t)(shift + 1) * 64 + (ns >> shift) - 64;
    }
    h->steps[step]++;
    h->total++;
    if (ns > h->highest) h->highest = ns;
}

static double quantile_us(const struct histogram *h, double q) {
    uint64_t rank = (uint64_t)(q * h->total), seen = 0;
    for (size_t i = 0; i < sizeof h->steps / sizeof *h->steps; i++) {
        seen += h->steps[i];
        if (seen > rank) return (i < 64 ? (double)i : (double)((64 + i % 64) << (i / 64 - 1))) / 1000;
    }
    return h->highest / 1000.0;
}

void print_result(void) {
    printf("{\"messages\": %ju, \"bytes\": %ju, \"seconds\": %.6f, \"server_cpu\": %.6f, \"client_cpu\": %.6f, ",
           counts.messages, counts.bytes, (closed - opened) / 1e9, (server_cpu[1] - server_cpu[0]) / 1e9,
           (own_cpu[1] - own_cpu[0]) / 1e9);
    printf("\"mismatched\": %ju, \"lost\": %ju, \"broken\": %ju, \"silent\": %ju, \"resent\": %ju", counts.mismatched,
           counts.lost, counts.broken, counts.silent, counts.resent);
    if (latencies.total)
        printf(", \"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f",
               quantile_us(&latencies, .5), quantile_us(&latencies, .9), quantile_us(&latencies, .99),
               quantile_us(&latencies, .999), latencies.highest / 1e3);
    if (lateness.total) printf(", \"late_p99_us\": %.2f", quantile_us(&lateness, .99));
    puts("}");
}

void watch(int epoll, int fd, int operation, uint32_t events, void *what) {
    struct epoll_event event = {.events = events, .data.ptr = what};
    if (epoll_ctl(epoll, operation, fd, &event)) fail("epoll_ctl");
}

int wait_for(int epoll, struct epoll_event *events, int most, uint64_t until) {
    uint64_t t = now(), left = until > t ? until - t : 0;
    struct timespec timeout = {left / SECOND, left % SECOND};
    int n = epoll_pwait2(epoll, events, most, &timeout, NULL);
    if (n < 0 && errno != EINTR) fail("epoll_pwait2");
    return n < 0 ? 0 : n;
}

int open_socket(int type) {
    struct sockaddr_in address = {AF_INET, htons(options.port), {htonl(INADDR_LOOPBACK)}, {0}};
    struct timeval limit = {5, 0};
    int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    return fd;
}

void make_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

void fail(const char *what) {
    printf("{\"failed\": \"%s: %s\"}\n", what, strerror(errno));
    exit(1);
}
