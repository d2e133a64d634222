/* Bytes in one direction, on one blocking connection. A message is a block (sink), or the answer to one request (source). */
#include "load.h"

#include <string.h>
#include <unistd.h>

void run_sink(void) {
    int fd = open_socket(SOCK_STREAM);
    uint64_t total = 0, said = 0;
    if (options.size > READ_SIZE) options.size = READ_SIZE;
    window_plan(now());
    while (phase != CLOSED) {
        ssize_t n = send(fd, pattern, options.size, MSG_NOSIGNAL);
        if (n <= 0) {
            counts.broken++;
            window_close();
            break;
        }
        total += n;
        if (phase == OPEN) {
            counts.messages++;
            counts.bytes += n;
        }
        window_tick(now());
    }
    shutdown(fd, SHUT_WR);
    if (recv(fd, &said, sizeof said, MSG_WAITALL) != sizeof said) counts.lost++;
    else if (said != total) counts.mismatched++;
    close(fd);
}

void run_source(void) {
    static unsigned char chunks[CHUNK_SIZE + READ_SIZE];
    for (size_t i = 0; i < sizeof chunks; i++) {
        size_t position = i % CHUNK_SIZE;
        chunks[i] = (position * 7 + (position >> 8) * 13) & 255;
    }
    int fd = open_socket(SOCK_STREAM);
    uint64_t size = options.size;
    window_plan(now());
    while (phase != CLOSED) {
        if (send(fd, &size, sizeof size, MSG_NOSIGNAL) != sizeof size) fail("send");
        uint64_t received = 0, asked = now();
        while (received < size) {
            ssize_t n = recv(fd, read_buffer, READ_SIZE, 0);
            if (n <= 0) {
                counts.broken++, counts.lost++;
                if (phase == OPEN) window_close();
                return;
            }
            if (received + n > size || memcmp(read_buffer, chunks + received % CHUNK_SIZE, n)) {
                counts.mismatched++;
                if (phase == OPEN) window_close();
                return;
            }
            received += n;
            if (phase == OPEN) counts.bytes += n;
            window_tick(now());
        }
        if (phase == OPEN) {
            counts.messages++;
            histogram_add(&latencies, now() - asked);
        }
    }
    close(fd);
}
