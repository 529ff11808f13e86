"""Integrity of the machinery a test run stands on: code identities before and after, and tripwires in between."""

# ruff: noqa: PTH118, PTH123  (pathlib costs start-up time in every box)
from __future__ import annotations

import builtins
import hashlib
import os
import sys
import types

WATCHED = ("_pytest", "pytest", "pluggy", "unittest")
"""Top-level packages whose functions and classes must stay what they were."""

HOT = (
    "_pytest.runner", "_pytest.reports", "_pytest.skipping", "_pytest.python_api", "_pytest.raises",
    "_pytest.outcomes", "pluggy._callers", "pluggy.callers", "unittest.case",
)  # fmt: skip
"""Modules compared again after every test, so that a change that is undone later is seen too."""

BUILTINS = ("isinstance", "issubclass", "len", "all", "any", "repr", "getattr", "setattr", "hasattr", "type", "bool",
            "__build_class__", "__import__", "compile", "exec", "eval", "sorted", "abs", "AssertionError")  # fmt: skip

TRIPWIRES = frozenset((
    "sys.settrace", "sys.setprofile", "sys.monitoring.register_callback",
    "gc.get_objects", "gc.get_referrers", "gc.get_referents",
    "cpython.PyInterpreterState_Clear", "cpython._PySys_ClearAuditHooks",
))  # fmt: skip
"""Audit events by which code looks for, or gets between, the test runner and its reporter."""

_CODE = (types.FunctionType, types.BuiltinFunctionType, type, property, staticmethod, classmethod)


class Watch:
    """A snapshot of function, class and code identities. ``changes()`` names what differs from it."""

    def __init__(self, module_names=None):
        names = (
            module_names
            if module_names is not None
            else [name for name in sys.modules if name.split(".")[0] in WATCHED]
        )
        self._modules = {name: sys.modules[name] for name in sorted(names) if name in sys.modules}
        self._spaces = []
        self._builtins = [(name, getattr(builtins, name, None)) for name in BUILTINS]
        seen = set()
        for name, module in self._modules.items():
            self._add(name, vars(module), seen)

    @classmethod
    def of(cls, kind):
        """A watch of one class alone."""
        watch = cls([])
        watch._builtins = []
        watch._add(kind.__qualname__, kind.__dict__, set())
        return watch

    def _add(self, label, space, seen):
        entries = {}
        for name, value in list(space.items()):
            if isinstance(value, _CODE):
                entries[name] = (value, _fingerprint(value))
                home = getattr(value, "__module__", None)
                if isinstance(value, type) and home in self._modules and id(value) not in seen:
                    seen.add(id(value))
                    self._add(home + "." + value.__qualname__, value.__dict__, seen)
        self._spaces.append((label, space, entries))

    def changes(self):
        """Sorted dotted names of replaced, removed, re-coded or added functions and classes."""
        found = ["builtins." + name for name, value in self._builtins if getattr(builtins, name, None) is not value]
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                found.append("sys.modules." + name)
        for label, space, entries in self._spaces:
            for name, (value, fingerprint) in entries.items():
                now = space.get(name)
                if now is not value or _fingerprint(now) != fingerprint:
                    found.append(label + "." + name)
            if len(space) > len(entries):
                found += [
                    label + "." + name
                    for name, value in list(space.items())
                    if name not in entries and isinstance(value, _CODE) and not _imported(value)
                ]
        return sorted(set(found))


def _fingerprint(value):
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        return (id(value.fget), id(getattr(value.fget, "__code__", None)))
    if isinstance(value, types.FunctionType):
        return (id(value.__code__), id(value.__defaults__), id(value.__kwdefaults__), id(value.__closure__))
    return None


def _imported(value):
    """A class or function that its own module still holds under its name: a late import, not an insertion."""
    home = sys.modules.get(getattr(value, "__module__", None) or "")
    return (
        home is not None
        and home.__name__.split(".")[0] in WATCHED
        and (getattr(home, getattr(value, "__name__", ""), None) is value)
    )


class SessionWatch:
    """What a session is made of: its plugins, how hooks are called, who sends the records."""

    def __init__(self, reporter, send):
        self._reporter = reporter
        self._send = send
        self._kind = Watch.of(type(reporter))
        self._cells = [cell.cell_contents for cell in send.__closure__]
        self._manager = None
        self._call = None

    def begin(self, manager):
        """Take ``manager`` as it is now for right."""
        self._manager = manager
        self._call = getattr(manager, "_inner_hookexec", None)

    def changes(self):
        """A label for each plugin, and for each part that was replaced. Plugins that belong there are the caller's
        to know: the same ones come with every run."""
        found = self._kind.changes()
        own = vars(self._reporter)
        if own.get("_send") is not self._send or len(own) != own.get("fields") or type(own.get("_phases")) is not dict:
            found.append("reporter")
        cells = self._send.__closure__
        if any(cells[at].cell_contents is not was for at, was in enumerate(self._cells)):
            found.append("channel")
        if self._manager is not None:
            if getattr(self._manager, "_inner_hookexec", None) is not self._call:
                found.append("hookexec")
            labels = sorted(map(_label, self._manager.get_plugins()))
            found += [f"plugin:{label}#{labels[:at].count(label)}" for at, label in enumerate(labels)]
        return found


def _label(plugin):
    name = getattr(plugin, "__name__", None)
    return str(name) if name else type(plugin).__module__ + "." + type(plugin).__qualname__


def altered(root, trusted):
    """``file:<path>`` for each trusted file whose content is not what was laid down."""
    found = []
    for path, digest in trusted.items():
        try:
            with open(os.path.join(root, path), "rb") as file:
                same = hashlib.sha256(file.read()).hexdigest() == digest
        except OSError:
            same = False
        if not same:
            found.append("file:" + path)
    return found


def set_tripwires(send):
    """Report the first use of each event of :data:`TRIPWIRES`, at once, so that it cannot be taken back."""
    add = getattr(sys, "addaudithook", None)
    if add is None:  # Python 3.7
        return
    seen = set()
    watched = TRIPWIRES

    def hook(event, args):
        if event in watched:
            name = event
        elif event == "ctypes.dlsym" and str(args[1]).lstrip("_").startswith("Py"):
            name = "ctypes.dlsym." + str(args[1])
        elif event == "object.__setattr__" and args[1] == "__code__":
            name = "function.__code__"
        else:
            return
        if name not in seen:
            seen.add(name)
            send({"k": "alarm", "event": name})

    add(hook)
