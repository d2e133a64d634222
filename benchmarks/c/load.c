/* The load generator: load MODE --port PORT [--server PID] [--connections N] [--size BYTES] [--seconds S]
 * [--warm-up S] [--patience S] [--tls] [--rate MESSAGES] [--flood]
 *
 * streams    each connection sends SIZE bytes and waits for the same bytes. With --rate an open loop: messages go out
 *            at their times, whether the earlier ones were answered or not. With --flood one more connection keeps
 *            a MiB on its way; it is not counted.
 * http       GET requests, one at a time on each connection
 * datagrams  as streams, with UDP
 * churn      connect, send, read the same bytes and the end, close
 * sink       one connection writes blocks of SIZE bytes; at its end the server says how many bytes it got
 * source     one connection asks for SIZE bytes (a number of 8 bytes, little endian), again and again
 * idle       connections that stay, after one exchange each, until standard input ends; prints "ready"
 *
 * Prints one line of JSON. Every reply is compared; what is outstanding when the window closes has to come. */
#include "load.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

struct options options = {.connections = 1, .size = 1024, .seconds = 1, .warm_up = 0.1, .patience = 3};
void print_result(void);

static const struct { const char *name; void (*run)(void); } modes[] = {
    {"streams", run_streams}, {"http", run_http},     {"datagrams", run_datagrams}, {"churn", run_churn},
    {"sink", run_sink},       {"source", run_source}, {"idle", run_idle},
};

static void make_pattern(void) {
    size_t length = PATTERN_PERIOD + READ_SIZE;
    if (!(pattern = malloc(length))) fail("malloc");
    uint64_t state = 88172645463325252ull; /* xorshift */
    for (size_t i = 0; i < length; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        pattern[i] = i < PATTERN_PERIOD ? (char)state : pattern[i - PATTERN_PERIOD];
    }
}

int main(int argc, char **argv) {
    static const struct option names[] = {
        {"port", 1, 0, 'p'}, {"server", 1, 0, 's'}, {"connections", 1, 0, 'c'}, {"size", 1, 0, 'b'}, {"seconds", 1, 0, 't'},
        {"warm-up", 1, 0, 'w'}, {"patience", 1, 0, 'd'}, {"tls", 0, 0, 'S'}, {"rate", 1, 0, 'r'}, {"flood", 0, 0, 'f'}, {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 's': options.server = atoi(optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 'b': options.size = strtoull(optarg, NULL, 10); break;
        case 't': options.seconds = atof(optarg); break;
        case 'w': options.warm_up = atof(optarg); break;
        case 'd': options.patience = atof(optarg); break;
        case 'S': options.tls = 1; break;
        case 'r': options.rate = atof(optarg); break;
        case 'f': options.flood = 1; break;
        default: return 2;
        }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1); /* the default lets each sleep be 50 microseconds longer */
    make_pattern();
    for (size_t i = 0; optind < argc && i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(argv[optind], modes[i].name)) {
            modes[i].run();
            if (modes[i].run != run_idle) print_result();
            return 0;
        }
    fprintf(stderr, "no such mode\n");
    return 2;
}
