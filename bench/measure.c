// measure FILE N COMMAND [ARG]...: run COMMAND N times, one after the other, each with the same
// standard input from its beginning, and write to FILE: wall seconds and CPU seconds of all, and the
// peak resident KiB of the biggest.
//
// A program of its own, and small: a child's peak begins with that of the process that made it.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int n = atoi(argv[2]); n > 0; n--) {
        lseek(STDIN_FILENO, 0, SEEK_SET);
        pid_t child = fork();
        if (child == 0) {
            execvp(argv[3], argv + 3);
            perror(argv[3]);
            _exit(127);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    FILE *file = fopen(argv[1], "w");
    if (!file) return 2;
    fprintf(file, "%.6f %.6f %ld\n", end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9,
            seconds(used.ru_utime) + seconds(used.ru_stime), used.ru_maxrss);
    return fclose(file) ? 2 : 0;
}
