/* What the files of the load generator share. Each mode is one file: load_streams.c, load_http.c, load_datagrams.c,
 * load_churn.c, load_bulk.c, load_idle.c. load.c is the command line, load_common.c what stands below. */
#ifndef LOAD_H
#define LOAD_H
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

/* A prime, and no message is a multiple of it: bytes that are lost, doubled or from another connection do not match. */
#define PATTERN_PERIOD 4093
#define READ_SIZE (256 * 1024)
/* What a source sends, again and again; servers.py and epoll_server.c make the same bytes. */
#define CHUNK_SIZE (64 * 1024)

#define SECOND 1000000000ull
/* For the first exchange on every connection, and, after the window, for what is outstanding. */
#define ESTABLISH_LIMIT (8 * SECOND)
#define DRAIN_LIMIT ((uint64_t)(options.patience * SECOND))

struct options {
    int port, connections, tls, flood;
    size_t size;
    double seconds, warm_up, patience, rate; /* rate: messages a second of all connections; 0 is a closed loop */
    pid_t server;
};
extern struct options options;

/* At least PATTERN_PERIOD + READ_SIZE bytes, so that every read can be compared in one go. */
extern char *pattern, read_buffer[READ_SIZE];

uint64_t now(void); /* CLOCK_MONOTONIC, nanoseconds */

/* The time in which messages count. CPU clocks are read at both of its ends. */
enum phase { WARMING, OPEN, CLOSED };
extern enum phase phase;
extern uint64_t window_opens, window_closes; /* as planned */
void window_plan(uint64_t start);
void window_tick(uint64_t t); /* opens and closes it when it is time */
void window_open(void);
void window_close(void);

struct counts {
    uint64_t messages, bytes; /* finished in the window */
    uint64_t mismatched;      /* replies that are not what they should be */
    uint64_t lost;            /* asked for and never answered */
    uint64_t broken;          /* connections that ended by themselves */
    uint64_t silent;          /* connections on which not even the first exchange came to an end */
    uint64_t resent;          /* datagrams sent once more, after half a second without an answer */
};
extern struct counts counts;

/* Nanoseconds, in steps of less than 1.6 %. */
struct histogram { uint64_t steps[64 * 64], total, highest; };
void histogram_add(struct histogram *, uint64_t);
extern struct histogram latencies; /* from a message's intended time to the last byte of its reply */
extern struct histogram lateness;  /* open loop: from the intended time to the first send() */

void watch(int epoll, int fd, int operation, uint32_t events, void *what);
int wait_for(int epoll, struct epoll_event *events, int most, uint64_t until);
int open_socket(int type); /* connected, with time limits on its calls */
void make_nonblocking(int fd);
_Noreturn void fail(const char *what); /* with errno */

void run_streams(void);
void run_http(void);
void run_datagrams(void);
void run_churn(void);
void run_sink(void);
void run_source(void);
void run_idle(void);
#endif
