/* Runs before `main` and before Rust's runtime, which Rust code can't do without `unsafe`. */

#include <fcntl.h>
#include <stdlib.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

/* Keeps a closed standard descriptor from looking open.
 *
 * Rust's runtime opens /dev/null in place of each closed standard descriptor. After that,
 * `hello-mq ... >&-` can't be distinguished from a program that was given /dev/null on purpose, and
 * messages would be acknowledged and lost. This opens a directory instead, which can be neither read
 * nor written and is never there on purpose. src/descriptors.rs looks for it. */
__attribute__((constructor)) static void hold_closed_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        /* open() returns the lowest free number, which is fd: those below are open by now. */
        if (fcntl(fd, F_GETFD) == -1 && open("/", O_RDONLY | O_DIRECTORY) == -1) {
            return;
        }
    }
}

/* Has glibc reuse the memory of large bodies.
 *
 * By default glibc returns large freed blocks to the system, which has to clear new pages for the next
 * body (mallopt(3)). Receiving 300 messages of 1 MiB takes 0.12 s of processor time and 4,000 page
 * faults with these thresholds, and 0.19 s and 30,000 page faults without. */
__attribute__((constructor)) static void keep_freed_memory(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 16 << 20);
    mallopt(M_TRIM_THRESHOLD, 32 << 20);
#endif
}
