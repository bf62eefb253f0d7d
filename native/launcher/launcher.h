/* What the two files of the launcher share. */
#ifndef OCIPY_LAUNCHER_H
#define OCIPY_LAUNCHER_H

#ifndef OCIPY_MODULE
#define OCIPY_MODULE "ocipy.cli.main"
#endif

/* Runs the command in this process. Returns its exit status, or -1 if nothing has happened yet and the
 * interpreter must be executed instead.
 *   python  the interpreter's path, by which it finds its library
 *   site    the directory that has the package; more: another with packages, or ""
 *   pack    descriptor of the pack */
int embed(const char *python, const char *site, const char *more, int pack, int argc, char **argv);

/* Runs the command without an interpreter, if it is plain enough. Returns its exit status, or -1: it is to be run. */
int brief(char **argv);

#endif
