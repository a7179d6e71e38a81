/* Keeps a closed standard descriptor from looking open.
 *
 * Where one is closed, Rust's runtime opens /dev/null for reading and writing before `main`. After that
 * nobody can tell `hello-mq ... >&-` from a program that was started with just such a /dev/null on
 * purpose, as Python's subprocess.DEVNULL is, and messages would be acknowledged and lost. Rust can't run
 * anything earlier without unsafe code; this does.
 *
 * In its place goes a directory: it can be neither read nor written, nobody has one there on purpose,
 * and src/descriptors.rs finds it. */

#include <fcntl.h>

__attribute__((constructor)) static void hold_closed_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        /* The lowest free number is this one: those below are open by now. */
        if (fcntl(fd, F_GETFD) == -1 && open("/", O_RDONLY | O_DIRECTORY) == -1) {
            return;
        }
    }
}
