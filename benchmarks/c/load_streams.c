/* Messages on byte streams, TCP or TLS, in a closed or an open loop.
 *
 * A connection is two positions in an endless pattern: what was sent and what has come back. Messages are marks on it,
 * so that several can be on their way, and each has the time at which it was meant to be sent. In a closed loop that is
 * the time of the reply before it. In an open loop it is the schedule's: a server that pauses makes every message late
 * that was due meanwhile, not only the one that it held. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifndef WITHOUT_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

#define FLOOD_SIZE (64 * 1024)
#define FLOOD_MESSAGES 16

struct stream {
    int fd, alive, blocked; /* blocked: waits for room in the socket */
    int repeats;            /* a reply begins the next message */
    int counted;            /* not the flood, whose turns are short: it must not make this program late */
    SSL *tls;
    size_t size, offset;           /* of a message; where in the pattern the stream begins */
    uint64_t owed, sent, received; /* positions: the end of the last message, and how far it went */
    uint64_t *due;                 /* intended times of the messages that are not answered: a queue */
    unsigned due_capacity, due_first, due_count;
};

static int epoll, draining, established;

enum { AGAIN = -1, BROKEN = -2 };

static ssize_t read_some(struct stream *s) {
#ifndef WITHOUT_TLS
    if (s->tls) {
        int n = SSL_read(s->tls, read_buffer, READ_SIZE);
        if (n > 0) return n;
        int error = SSL_get_error(s->tls, n);
        return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? AGAIN : BROKEN;
    }
#endif
    ssize_t n = recv(s->fd, read_buffer, s->counted ? READ_SIZE : FLOOD_SIZE, 0);
    return n > 0 ? n : n < 0 && errno == EAGAIN ? AGAIN : BROKEN;
}

static ssize_t write_some(struct stream *s, const char *data, size_t size) {
#ifndef WITHOUT_TLS
    if (s->tls) {
        int n = SSL_write(s->tls, data, size);
        if (n > 0) return n;
        int error = SSL_get_error(s->tls, n);
        return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? AGAIN : BROKEN;
    }
#endif
    ssize_t n = send(s->fd, data, size, MSG_NOSIGNAL);
    return n >= 0 ? n : errno == EAGAIN ? AGAIN : BROKEN;
}

static void end_stream(struct stream *s) {
    if (draining) counts.lost += s->due_count;
    s->alive = 0;
    close(s->fd);
}

static int send_owed(struct stream *s) {
    int blocked = 0;
    while (s->sent < s->owed) {
        size_t limit = s->counted ? READ_SIZE : FLOOD_SIZE, most = s->owed - s->sent < limit ? s->owed - s->sent : limit;
        ssize_t n = write_some(s, pattern + (s->offset + s->sent) % PATTERN_PERIOD, most);
        if (n == BROKEN) {
            counts.broken++;
            end_stream(s);
            return 0;
        }
        if (n == AGAIN) {
            blocked = 1;
            break;
        }
        s->sent += n;
        if (!s->counted) {
            blocked = s->sent < s->owed;
            break;
        }
    }
    if (blocked != s->blocked) {
        watch(epoll, s->fd, EPOLL_CTL_MOD, EPOLLIN | (blocked ? EPOLLOUT : 0), s);
        s->blocked = blocked;
    }
    return 1;
}

static void add_message(struct stream *s, uint64_t due) {
    if (s->due_count == s->due_capacity) {
        unsigned capacity = s->due_capacity ? 2 * s->due_capacity : 4;
        uint64_t *longer = malloc(capacity * sizeof *longer);
        if (!longer) fail("malloc");
        for (unsigned i = 0; i < s->due_count; i++) longer[i] = s->due[(s->due_first + i) % s->due_capacity];
        free(s->due);
        s->due = longer, s->due_capacity = capacity, s->due_first = 0;
    }
    s->due[(s->due_first + s->due_count++) % s->due_capacity] = due;
    s->owed += s->size;
}

static void finish_message(struct stream *s, uint64_t t) {
    uint64_t due = s->due[s->due_first];
    s->due_first = (s->due_first + 1) % s->due_capacity;
    s->due_count--;
    if (!established || !s->counted) return;
    if (phase == OPEN) {
        counts.messages++;
        counts.bytes += s->size;
    }
    if (options.rate ? due >= window_opens && due < window_closes : phase == OPEN)
        histogram_add(&latencies, t - due);
}

static void step(struct stream *s, uint32_t events) {
    if (!s->alive || (events & EPOLLOUT && !send_owed(s))) return;
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    for (;;) {
        ssize_t n = read_some(s);
        if (n == AGAIN) break;
        if (n == BROKEN) {
            counts.broken++;
            end_stream(s);
            return;
        }
        if (s->received + n > s->sent || memcmp(read_buffer, pattern + (s->offset + s->received) % PATTERN_PERIOD, n)) {
            counts.mismatched++;
            end_stream(s);
            return;
        }
        s->received += n;
        uint64_t t = now();
        while (s->due_count && s->received >= s->owed - (s->due_count - 1) * (uint64_t)s->size) {
            finish_message(s, t);
            if (established && s->repeats && !draining) add_message(s, t);
        }
        /* One read a turn, so that one connection cannot keep the others waiting. What OpenSSL has read ahead is told
         * by no event. */
        if (!s->tls) break;
    }
    send_owed(s);
}

static void turn(uint64_t until) {
    struct epoll_event events[256];
    int n = wait_for(epoll, events, 256, until);
    for (int i = 0; i < n; i++) step(events[i].data.ptr, events[i].events);
}

static int unanswered(struct stream *streams, int n) {
    int left = 0;
    for (int i = 0; i < n; i++) left += streams[i].alive && streams[i].due_count;
    return left;
}

static void open_stream(struct stream *s, int number, void *context) {
    (void)context; /* without TLS */
    *s = (struct stream){.fd = open_socket(SOCK_STREAM), .alive = 1, .counted = 1, .repeats = !options.rate,
                         .size = options.size, .offset = (size_t)number * 37 % PATTERN_PERIOD};
#ifndef WITHOUT_TLS
    if (context) {
        s->tls = SSL_new(context);
        SSL_set_fd(s->tls, s->fd);
        if (SSL_connect(s->tls) != 1) fail("TLS handshake");
    }
#endif
    make_nonblocking(s->fd);
    watch(epoll, s->fd, EPOLL_CTL_ADD, EPOLLIN, s);
}

/* The messages that are due go out, each to the next connection. Returns when the next one is due. */
static uint64_t send_due(struct stream *streams, uint64_t start, uint64_t *number) {
    for (;;) {
        uint64_t due = start + (uint64_t)(*number * (1e9 / options.rate)), t = now();
        if (due > t || due >= window_closes) return due;
        struct stream *s = &streams[(*number)++ % options.connections];
        if (!s->alive) continue;
        if (due >= window_opens) histogram_add(&lateness, t - due);
        add_message(s, due);
        if (!s->blocked) send_owed(s);
    }
}

void run_streams(void) {
    void *context = NULL;
#ifndef WITHOUT_TLS
    if (options.tls) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
#endif
    epoll = epoll_create1(EPOLL_CLOEXEC);
    int n = options.connections + options.flood;
    struct stream *streams = calloc(n, sizeof *streams);
    if (!streams) fail("calloc");
    for (int i = 0; i < n; i++) open_stream(&streams[i], i, context);
    if (options.flood) {
        struct stream *flood = &streams[n - 1];
        flood->size = FLOOD_SIZE, flood->counted = 0, flood->repeats = 1;
    }
    /* One exchange on each first: how fast connections are accepted is another figure. */
    uint64_t limit = now() + ESTABLISH_LIMIT;
    for (int i = 0; i < n; i++) {
        add_message(&streams[i], now());
        send_owed(&streams[i]);
    }
    while (unanswered(streams, n) && now() < limit) turn(now() + SECOND / 50);
    counts.silent = unanswered(streams, n);
    if (counts.silent || counts.broken || counts.mismatched) return;
    established = 1;

    uint64_t start = now(), number = 0;
    window_plan(start);
    for (int i = 0; i < n; i++)
        for (int j = 0; streams[i].repeats && j < (streams[i].counted ? 1 : FLOOD_MESSAGES); j++) {
            add_message(&streams[i], now());
            send_owed(&streams[i]);
        }
    while (phase != CLOSED) {
        uint64_t until = now() + SECOND / 50;
        if (options.rate) {
            uint64_t due = send_due(streams, start, &number);
            if (due < until) until = due;
        }
        if (window_closes > now() && window_closes < until) until = window_closes;
        turn(until);
        window_tick(now());
    }
    draining = 1;
    limit = now() + DRAIN_LIMIT;
    while (unanswered(streams, n) && now() < limit) turn(now() + SECOND / 50);
    for (int i = 0; i < n; i++)
        if (streams[i].alive) counts.lost += streams[i].due_count;
}
