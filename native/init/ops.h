/* The operations of a plan: number, name, handler. ocipy/plan/ops.py has a class for each, with the same
 * number and the layout of its payload; spec-tests/test_plan_encoding.py holds the two together. */
#ifndef OCIPY_OPS_H
#define OCIPY_OPS_H

#define OCIPY_PLAN_MAGIC 0x5049434fu /* "OCIP" */
#define OCIPY_PLAN_VERSION 1u

#define OCIPY_OPS(X)                     \
    X(1, sync, op_sync)                  \
    X(2, fork, op_fork)                  \
    X(3, ready, op_ready)                \
    X(4, wait_start, op_wait_start)      \
    X(5, hook, op_hook)                  \
    X(6, exec, op_exec)                  \
    X(7, lookup, op_lookup)              \
    X(10, open_ns, op_open_ns)           \
    X(11, setns, op_setns)               \
    X(12, setns_pidfd, op_setns_pidfd)   \
    X(13, unshare, op_unshare)           \
    X(14, setsid, op_setsid)             \
    X(15, loopback, op_loopback)         \
    X(16, hostname, op_hostname)         \
    X(17, domainname, op_domainname)     \
    X(18, keyring, op_keyring)           \
    X(19, root_ids, op_root_ids)         \
    X(20, dumpable, op_dumpable)         \
    X(21, proc_write, op_proc_write)     \
    X(22, proc_open, op_proc_open)       \
    X(23, put, op_put)                   \
    X(30, propagation, op_propagation)   \
    X(31, bind_root, op_bind_root)       \
    X(32, open_root, op_open_root)       \
    X(33, pivot_root, op_pivot_root)     \
    X(34, move_root, op_move_root)       \
    X(35, root_attr, op_root_attr)       \
    X(41, to_root, op_to_root)           \
    X(36, mkdir, op_mkdir)               \
    X(37, symlink, op_symlink)           \
    X(38, mknod, op_mknod)               \
    X(39, mask, op_mask)                 \
    X(40, readonly, op_readonly)         \
    X(50, open_tree, op_open_tree)       \
    X(48, idmap_now, op_idmap_now)       \
    X(49, open_now, op_open_now)         \
    X(51, new_fs, op_new_fs)             \
    X(52, mount_attr, op_mount_attr)     \
    X(53, copy_up, op_copy_up)           \
    X(54, attach, op_attach)             \
    X(55, legacy_mount, op_legacy_mount) \
    X(56, remount, op_remount)           \
    X(57, idmap, op_idmap)               \
    X(58, remount_fs, op_remount_fs)     \
    X(59, bind_attr, op_bind_attr)       \
    X(60, console, op_console)           \
    X(61, stdio, op_stdio)               \
    X(62, null_stdio, op_null_stdio)     \
    X(70, rlimit, op_rlimit)             \
    X(71, umask, op_umask)               \
    X(72, bounding, op_bounding)         \
    X(73, user, op_user)                 \
    X(74, caps, op_caps)                 \
    X(75, cwd, op_cwd)                   \
    X(76, no_new_privs, op_no_new_privs) \
    X(77, seccomp, op_seccomp)           \
    X(87, hook_filter, op_hook_filter)   \
    X(78, personality, op_personality)   \
    X(79, scheduler, op_scheduler)       \
    X(80, ioprio, op_ioprio)             \
    X(81, file_label, op_file_label)     \
    X(85, mempolicy, op_mempolicy)       \
    X(86, affinity, op_affinity)         \
    X(93, death_signal, op_death_signal) \
    X(94, own_device, op_own_device)     \
    X(96, mask_device, op_mask_device)

#endif
