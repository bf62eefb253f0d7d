/* The launcher's fast way: the interpreter inside the executable, initialized only as far as a command needs it.
 *
 * Of the milliseconds that CPython takes to start, more than half go into what is done after its core runs:
 * computing sys.path, importing encodings from files, opening text streams. An engine's calls need none of it.
 * So the core is started alone (PyConfig._init_main = 0, "multi-phase initialization" in CPython's terms), and the
 * code comes from the pack (ocipy/faststart/boot.py). The first import of something that is not in the pack completes
 * the initialization; the interpreter is then like any other that was started with -I -S -X utf8.
 *
 * OCIPY_MAGIC is the magic number of its .pyc files, as a 32-bit number.
 *
 * Linked when the building interpreter has a static library (setup.py); without it, and with --debug, the
 * launcher executes the interpreter. */
#include "launcher.h"

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <marshal.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

extern PyStatus _Py_InitializeMain(void);
extern int _PySignal_Init(int install_signal_handlers); /* belongs to the second phase, but _signal needs it */

static PyObject *complete(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    PyStatus status = _Py_InitializeMain();
    if (PyStatus_Exception(status))
        return PyErr_Format(PyExc_ImportError, "the interpreter can't be initialized: %s", status.err_msg);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"complete", complete, METH_NOARGS, "Finish the interpreter's initialization."}, {0}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_ocipy_launcher", .m_size = -1, .m_methods = methods};
static PyObject *create(void) { return PyModule_Create(&definition); }

static int start_core(const char *python, int argc, char **argv) {
    PyPreConfig pre;
    PyPreConfig_InitIsolatedConfig(&pre);
    pre.utf8_mode = 1;
    if (PyStatus_Exception(Py_PreInitialize(&pre)))
        return 0;
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.pathconfig_warnings = 0;
    config.install_signal_handlers = 1;
    config.parse_argv = 0;
    config._init_main = 0;
    int good = !PyStatus_Exception(PyConfig_SetBytesString(&config, &config.program_name, python)) &&
               !PyStatus_Exception(PyConfig_SetBytesArgv(&config, argc, argv)) &&
               !PyStatus_Exception(Py_InitializeFromConfig(&config)) && _PySignal_Init(1) == 0;
    PyConfig_Clear(&config);
    return good;
}

/* The code of ocipy.faststart.boot: it stands at the head of the pack, behind the magic number and its size. */
static PyObject *boot_code(int fd) {
    uint32_t head[2];
    if (pread(fd, head, sizeof head, 0) != sizeof head)
        return NULL;
    char *data = mmap(NULL, sizeof head + head[1], PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return NULL;
    PyObject *code = PyMarshal_ReadObjectFromString(data + sizeof head, head[1]);
    munmap(data, sizeof head + head[1]);
    return code;
}

int embed(const char *python, const char *site, const char *more, int pack, int argc, char **argv) {
    unsigned int head[2];
    if (pread(pack, head, sizeof head, 0) != sizeof head || head[0] != OCIPY_MAGIC)
        return -1; /* made for another interpreter */
    if (PyImport_AppendInittab("_ocipy_launcher", create) || !start_core(python, argc, argv))
        return -1;
    PyObject *code = boot_code(pack), *names = PyDict_New(), *args = PyList_New(0), *done = NULL;
    for (int i = 0; args && i < argc; i++) {
        PyObject *word = PyUnicode_DecodeUTF8(argv[i], (Py_ssize_t)strlen(argv[i]), "surrogateescape");
        if (!word || PyList_Append(args, word))
            break;
        Py_DECREF(word);
    }
    if (code && names && args && PyList_GET_SIZE(args) == argc) {
        PyObject *name = PyUnicode_FromString("ocipy.faststart.boot");
        PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins());
        PyDict_SetItemString(names, "__name__", name);
        done = PyEval_EvalCode(code, names, names);
        PyObject *run = done ? PyDict_GetItemString(names, "main") : NULL;
        if (run)
            done = PyObject_CallFunction(run, "sssOi", OCIPY_MODULE, site, more, args, pack);
    }
    if (!done)
        PyErr_Print();
    return done ? 0 : 1;
}
