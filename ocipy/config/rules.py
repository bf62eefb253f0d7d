"""What the schema can't say: rules between properties, and what the kernel would refuse later.

``create`` and ``validate`` both apply them. The rules read a config whose types are right (``check``, or
what ``validate`` has left after taking out what is wrong), so a property is either absent or of its
type, and nothing here asks the host: what depends on it is decided when the plan is compiled.

A rule appends ``(config path, value found, what is allowed, section)``; only a fault costs anything.
"""

from __future__ import annotations

from ocipy.config.rules_linux import id_mappings, linux_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.config.fault import Fault, Row

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
OTHER_PLATFORMS = ("windows", "solaris", "vm", "zos", "freebsd")
NAME_LENGTH = 64  # __NEW_UTS_LEN, in bytes
_STRING = frozenset((str,))
GROUPS_MAX = 65536  # NGROUPS_MAX of linux/limits.h
NO_ID = 0xFFFFFFFF  # (uid_t) -1: setresuid(2) takes it for "leave as it is", which would leave root


def faults(config: dict[str, Any], namespaces_known: bool = True) -> list[Fault]:
    """Every rule that a config breaks.

    Args:
        config: a config that satisfies the schema.
        namespaces_known: False where ``linux.namespaces`` is itself wrong, so that nothing is said about
            what needs a namespace.
    """
    return _worded(rows(config, namespaces_known))


def process_faults(process: dict[str, Any], path: str = "$") -> list[Fault]:
    """Every rule that a ``process`` object breaks (the file of ``exec --process``)."""
    out: list[Row] = []
    _process(process, path, out)
    return _worded(out)


def _worded(found: list[Row]) -> list[Fault]:
    if not found:
        return []
    from ocipy.config.fault import Fault

    return [Fault.of(row) for row in found]


def rows(config: dict[str, Any], namespaces_known: bool = True) -> list[Row]:
    """The broken rules of a config, not yet worded."""
    out: list[Row] = []
    linux = config.get("linux") or {}
    namespaces = {entry.get("type"): entry.get("path", "") for entry in linux.get("namespaces", ())}
    version = config.get("ociVersion")
    if version is not None and not _supported(version):
        out.append(
            ("$.ociVersion", version, "a SemVer 2.0.0 version 1.x.y", "config.md#specification-version")
        )
    if "linux" not in config:
        for platform in OTHER_PLATFORMS:
            if platform in config:
                out.append(
                    (f"$.{platform}", config[platform], "a linux section, for this platform",
                     "config.md#platform-specific-configuration")
                )  # fmt: skip
    _root(config.get("root"), out)
    for index, mount in enumerate(config.get("mounts", ())):
        _mount(mount, index, namespaces if namespaces_known else {"user": ""}, out)
    if "process" in config:
        _process(config["process"], "$.process", out)
    else:
        out.append(("$.process", None, "an object; create needs it", "config.md#process"))
    for name in ("hostname", "domainname"):
        if config.get(name):
            _host_name(name, config[name], "uts" in namespaces or not namespaces_known, out)
    if "hooks" in config:
        _hooks(config["hooks"], out)
    if "annotations" in config:
        _annotations(config["annotations"], out)
    if linux:
        linux_rows(linux, namespaces if namespaces_known else None, out)
    return out


def _supported(version: str) -> bool:
    """Whether a version is SemVer 2.0.0 and of major 1."""
    rest, plus, build = version.partition("+")
    core, dash, pre = rest.partition("-")
    numbers = core.split(".")
    return (
        len(numbers) == 3
        and numbers[0] == "1"
        and all(_number(n) for n in numbers)
        and (not dash or all(_identifier(i) and (not i.isdigit() or _number(i)) for i in pre.split(".")))
        and (not plus or all(_identifier(i) for i in build.split(".")))
    )


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")


def _identifier(text: str) -> bool:
    return text.isascii() and text.replace("-", "0").isalnum()


def _root(root: dict[str, Any] | None, out: list[Row]) -> None:
    if root is None:
        out.append(("$.root", None, "an object; Linux needs it", "config.md#root"))
    elif root.get("path") == "":
        out.append(("$.root.path", "", "a path, absolute or relative to the bundle", "config.md#root"))


def _mount(mount: dict[str, Any], index: int, namespaces: dict[Any, str], out: list[Row]) -> None:
    if mount.get("destination") == "":
        out.append((f"$.mounts[{index}].destination", "", "a path inside the container", "config.md#mounts"))
    options = mount.get("options", ())
    if ("bind" in options or "rbind" in options) and not mount.get("source") and "remount" not in options:
        out.append(
            (f"$.mounts[{index}].source", mount.get("source"), "the path to bind", "config.md#mounts")
        )
    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    if uids or gids:
        section = "config.md#posix-platform-mounts"
        for name, here, other in (("uid", uids, "gid"), ("gid", gids, "uid")):
            path = f"$.mounts[{index}].{name}Mappings"
            if here:
                id_mappings(here, path, out, section)
            else:
                out.append((path, here, f"mappings, as {other}Mappings has them", section))
    elif ("idmap" in options or "ridmap" in options) and "user" not in namespaces:
        out.append(
            (f"$.mounts[{index}].options", options,
             "idmap only with uidMappings and gidMappings, or in a user namespace",
             "config.md#linux-mount-options")
        )  # fmt: skip


def _process(process: dict[str, Any], path: str, out: list[Row]) -> None:
    cwd = process.get("cwd")
    if cwd is not None and cwd[:1] != "/":
        out.append((f"{path}.cwd", cwd, "an absolute path", "config.md#process"))
    if not process.get("args"):
        out.append(
            (f"{path}.args", process.get("args"), "an array with at least one entry", "config.md#process")
        )
    _env(process, path, "config.md#process", out)
    if process.get("terminal"):
        for name, size in process.get("consoleSize", {}).items():
            if name in ("height", "width") and size > 0xFFFF:  # struct winsize has 16 bits
                out.append(
                    (f"{path}.consoleSize.{name}", size, "an integer from 0 to 65535", "config.md#process")
                )
    if "user" in process:
        _user(process["user"], f"{path}.user", out)
    seen: set[str] = set()
    for index, limit in enumerate(process.get("rlimits", ())):
        _rlimit(limit, seen, f"{path}.rlimits[{index}]", out)
    score = process.get("oomScoreAdj", 0)
    if not -1000 <= score <= 1000:
        out.append(
            (f"{path}.oomScoreAdj", score, "an integer from -1000 to 1000", "config.md#linux-process")
        )
    if "scheduler" in process or "ioPriority" in process or "execCPUAffinity" in process:
        from ocipy.config.rules_rare import process_rows

        process_rows(process, path, out)


def _env(owner: dict[str, Any], path: str, section: str, out: list[Row]) -> None:
    for index, entry in enumerate(owner.get("env", ())):
        if entry.find("=") < 1:
            out.append((f"{path}.env[{index}]", entry, "NAME=value", section))


def _user(user: dict[str, Any], path: str, out: list[Row]) -> None:
    section = "config.md#posix-platform-user"
    allowed = "an id from 0 to 4294967294"
    for name in ("uid", "gid"):
        if user.get(name, 0) == NO_ID:  # that it is there is for `validate` to tell
            out.append((f"{path}.{name}", user.get(name), allowed, section))
    groups = user.get("additionalGids", ())
    if NO_ID in groups:
        out.append((f"{path}.additionalGids[{groups.index(NO_ID)}]", NO_ID, allowed, section))
    if len(groups) > GROUPS_MAX:
        out.append((f"{path}.additionalGids", f"{len(groups)} ids", f"at most {GROUPS_MAX} ids", section))
    if user.get("umask", 0) > 0o777:
        out.append((f"{path}.umask", user["umask"], "an integer from 0 to 511", section))


def _rlimit(limit: dict[str, Any], seen: set[str], path: str, out: list[Row]) -> None:
    from ocipy.config.names import RLIMITS

    section = "config.md#posix-process"
    kind, soft, hard = limit.get("type"), limit.get("soft"), limit.get("hard")
    if kind is not None:
        if kind not in RLIMITS:
            out.append((f"{path}.type", kind, "one of " + ", ".join(RLIMITS), section))
        elif kind in seen:
            out.append((f"{path}.type", kind, "each limit once", section))
        seen.add(kind)
    if soft is not None and hard is not None and soft > hard:
        out.append((f"{path}.soft", soft, f"at most the hard limit, {hard}", section))


def _host_name(name: str, value: str, own: bool, out: list[Row]) -> None:
    section = f"config.md#{name}"
    if not own:
        out.append((f"$.{name}", value, "only with a uts namespace in linux.namespaces", section))
    if len(value) > NAME_LENGTH // 4 and len(value.encode("utf-8", "surrogatepass")) > NAME_LENGTH:
        out.append((f"$.{name}", value, f"at most {NAME_LENGTH} bytes", section))


def _annotations(annotations: dict[str, Any], out: list[Row]) -> None:
    section = "config.md#annotations"
    if "" in annotations:
        out.append(('$.annotations[""]', annotations[""], "a key that is not empty", section))
    if not _STRING.issuperset(map(type, annotations.values())):  # a key of line feeds passes the schema
        from ocipy.config.fault import below

        for key, value in annotations.items():
            if key and type(value) is not str:
                out.append((below("$.annotations", key), value, "a string", section))


def _hooks(hooks: dict[str, Any], out: list[Row]) -> None:
    section = "config.md#posix-platform-hooks"
    for name in HOOKS:
        for index, hook in enumerate(hooks.get(name, ())):
            where, path = f"$.hooks.{name}[{index}]", hook.get("path")
            if path is not None and path[:1] != "/":
                out.append((f"{where}.path", path, "an absolute path", section))
            if hook.get("args") and not hook["args"][0]:
                out.append((f"{where}.args[0]", "", "the hook's name for itself, its path most often", section))
            _env(hook, where, section, out)
