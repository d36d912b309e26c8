/* The least that an ingest must do: open, preadv and close every file of a list, and write the same bytes.

   floor files THREADS OUT < LIST      a path a line: openat, preadv into two arrays, close; blocks of 256 rows written
   floor tar THREADS OUT ARCHIVE FIRST STRIDE COUNT     records at FIRST, FIRST + STRIDE, ... of one archive, likewise
   floor read FILE                     the file read once and thrown away

   Written past the page cache (O_DIRECT) as mirsearch does, or through it when OUT begins with "cached:"; flushed at
   the end. Nothing is checked or summed. Prints the seconds it took. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 256, FC7 = 16384, FC8 = 4000, RECORD = 20400, HEADER = 4096 };

static char **paths;
static long count, next_block, first, stride;
static int archive = -1, out7, out8, direct = 1;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void put(int handle, const char *rows, long size, long at) {
    /* The last block may end within a page: its rest is padding that the file is cut back to. */
    long padded = direct ? (size + 4095) / 4096 * 4096 : size;
    if (pwrite(handle, rows, padded, at) != padded) die("pwrite");
}

static void *work(void *nothing) {
    char *rows7, *rows8, spill;
    long header[2];
    if (posix_memalign((void **)&rows7, 4096, BLOCK * FC7) || posix_memalign((void **)&rows8, 4096, BLOCK * FC8 + 4096))
        die("posix_memalign");
    for (;;) {
        long start = __sync_fetch_and_add(&next_block, 1) * BLOCK;
        if (start >= count) return nothing;
        long rows = count - start < BLOCK ? count - start : BLOCK;
        for (long i = 0; i < rows; i++) {
            struct iovec parts[5] = {{header, 8}, {rows8 + i * FC8, FC8}, {header + 1, 8}, {rows7 + i * FC7, FC7}, {&spill, 1}};
            if (archive >= 0) {
                if (preadv(archive, parts, 4, first + (start + i) * stride) != RECORD) die("preadv");
                continue;
            }
            int handle = openat(AT_FDCWD, paths[start + i], O_RDONLY | O_CLOEXEC);
            if (handle < 0 || preadv(handle, parts, 5, 0) != RECORD) die(paths[start + i]);
            close(handle);
        }
        put(out7, rows7, rows * FC7, HEADER + start * FC7);
        put(out8, rows8, rows * FC8, HEADER + start * FC8);
    }
}

static int create(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int handle = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | (direct ? O_DIRECT : 0), 0644);
    if (handle < 0) die(path);
    return handle;
}

int main(int arguments, char **argument) {
    double started = now();
    if (arguments == 3 && !strcmp(argument[1], "read")) {
        char *buffer = malloc(4 << 20);
        int handle = open(argument[2], O_RDONLY);
        if (handle < 0 || !buffer) die(argument[2]);
        while (read(handle, buffer, 4 << 20) > 0) {}
        printf("%.6f\n", now() - started);
        return 0;
    }
    if (arguments < 4) return 2;
    int threads = atoi(argument[2]);
    const char *folder = argument[3];
    if (!strncmp(folder, "cached:", 7)) direct = 0, folder += 7;
    if (!strcmp(argument[1], "tar")) {
        archive = open(argument[4], O_RDONLY | O_CLOEXEC);
        if (archive < 0) die(argument[4]);
        first = atol(argument[5]), stride = atol(argument[6]), count = atol(argument[7]);
    } else {
        size_t room = 0;
        ssize_t length;
        char *line = NULL;
        for (long most = 0; (length = getline(&line, &room, stdin)) > 0; count++) {
            if (count == most) paths = realloc(paths, (most = 2 * most + 1024) * sizeof *paths);
            line[length - 1] = 0;
            paths[count] = strdup(line);
        }
    }
    out7 = create(folder, "fc7"), out8 = create(folder, "fc8");
    pthread_t workers[256];
    for (int i = 0; i < threads; i++) pthread_create(workers + i, NULL, work, NULL);
    for (int i = 0; i < threads; i++) pthread_join(workers[i], NULL);
    if (ftruncate(out7, HEADER + count * FC7) || ftruncate(out8, HEADER + count * FC8)) die("ftruncate");
    if (fsync(out7) || fsync(out8)) die("fsync");
    printf("%.6f\n", now() - started);
    return 0;
}
