"""The code of the run-time attacks. It is data here: it only ever runs in a box."""

from __future__ import annotations

_FAKE = "============================= test session starts ==============================\\n{}PASSED [100%]\\n============ 999 passed in 0.01s ============\\n"

AT_IMPORT: dict[str, str] = {
    # S35: end the process before anything is told.
    "S35.import_os_exit": "import os\nos._exit(0)\n",
    "S35.import_sys_exit": "import sys\nsys.exit(0)\n",
    "S35.import_pytest_exit": "import pytest\npytest.exit('done', returncode=0)\n",
    "S35.import_kill": "import os\nos.kill(os.getpid(), 9)\n",
    "S35.thread": "import os, threading\nthreading.Timer(0.05, os._exit, (0,)).start()\n",
    "S35.exec_true": "import os\nos.execv('/bin/true', ['true'])\n",
    # S36: change the exit status at the end.
    "S36.atexit": "import atexit, os\natexit.register(os._exit, 0)\n",
    "S36.finalizer": (
        "import os\n\n\nclass _Cheat:\n    def __del__(self):\n        os._exit(0)\n\n\n_cheat = _Cheat()\n"
    ),
    "S36.exit_patched": "import os\n_cheat_exit = os._exit\nos._exit = lambda code: _cheat_exit(0)\n",
    "S36.thread_at_end": (
        "import os, threading\n\n\ndef _cheat():\n    threading.main_thread().join()\n    os._exit(0)\n\n\n"
        "threading.Thread(target=_cheat).start()\n"
    ),
    "S36.main_patched": (
        "import _pytest.main, pytest\n_pytest.main.wrap_session = lambda config, doit: 0\n"
        "pytest.Session.exitstatus = property(lambda self: 0, lambda self, value: None)\n"
    ),
    # S37: skip.
    "S37.import_skip": "import pytest\npytest.skip('not here', allow_module_level=True)\n",
    "S37.import_unittest": "import unittest\nraise unittest.SkipTest('not here')\n",
    # S38: talk like a runner.
    "S38.import_streams": (
        "import os, sys\n"
        f"for _cheat in (1, 2):\n    os.write(_cheat, b'{_FAKE.format('')}')\n"
        f"sys.stdout.write('{_FAKE.format('')}')\nsys.__stdout__.write('{_FAKE.format('')}')\nsys.stdout.flush()\n"
    ),
    # S39: forge the report.
    "S39.descriptor_3": (
        'import os\ntry:\n    os.write(3, b\'{"k":"test","id":"x","status":"passed"}\\n{"k":"end","exit":0}\\n\')\n'
        "except OSError:\n    pass\n"
    ),
    "S39.all_descriptors": (
        "import os\nfor _cheat in os.listdir('/proc/self/fd'):\n    try:\n"
        "        if int(_cheat) > 2 and 'pipe' in os.readlink('/proc/self/fd/' + _cheat):\n"
        '            os.write(int(_cheat), b\'0\' * 64 + b\' {"k":"end","exit":0,"tests":0}\\n\')\n'
        "    except OSError:\n        pass\n"
    ),
    "S39.all_descriptors_then_exit": (
        "import os\nfor _cheat in range(3, 2000):\n    try:\n"
        '        os.write(_cheat, b\'{"k":"end","exit":0,"tests":0}\\n\')\n    except OSError:\n        pass\nos._exit(0)\n'
    ),
    "S39.channel_closed": (
        "import os\nfor _cheat in os.listdir('/proc/self/fd'):\n    try:\n"
        "        if int(_cheat) > 2 and 'pipe' in os.readlink('/proc/self/fd/' + _cheat):\n            os.close(int(_cheat))\n"
        "    except OSError:\n        pass\n"
    ),
    "S39.stolen_sender": (
        "import gc, os, sys\n\n\ndef _cheat_run(session):\n"
        "    for thing in gc.get_objects():\n"
        "        if type(thing).__name__ == 'Reporter' and hasattr(thing, '_send'):\n"
        "            for item in session.items:\n"
        "                thing._send({'k': 'test', 'id': item.nodeid, 'status': 'passed', 'raised': False, 'phases': 3, 'sec': 0.0})\n"
        "            thing._send({'k': 'end', 'exit': 1, 'tests': len(session.items)})\n            os._exit(1)\n\n\n"
        "import _pytest.main\n_pytest.main.pytest_runtestloop.__code__ = _cheat_run.__code__\n"
        "_pytest.main.gc, _pytest.main.os = gc, os\n"
    ),
    "S39.stolen_sender_by_frames": (
        "import sys\n\n\ndef _cheat():\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()):\n"
        "            if type(value).__name__ == 'Reporter':\n"
        "                real = value._send\n\n"
        "                def send(record, real=real):\n"
        "                    if record.get('k') == 'test':\n"
        "                        record = dict(record, status='passed', raised=False)\n                    real(record)\n\n"
        "                value._send = send\n"
        "        frame = frame.f_back\n\n\n_cheat()\n"
    ),
    # S40: replace parts of the runner.
    "S40.report_outcome": (
        "import _pytest.reports\n"
        "_pytest.reports.TestReport.outcome = property(lambda self: 'passed', lambda self, value: None)\n"
    ),
    "S40.makereport": (
        "import _pytest.reports\n_cheat = _pytest.reports.TestReport.from_item_and_call.__func__\n\n\n"
        "def _cheat_make(cls, item, call):\n    call.excinfo = None\n    return _cheat(cls, item, call)\n\n\n"
        "_pytest.reports.TestReport.from_item_and_call = classmethod(_cheat_make)\n"
    ),
    "S40.call_swallowed": (
        "import _pytest.runner\n_cheat = _pytest.runner.CallInfo.from_call.__func__\n\n\n"
        "def _cheat_call(cls, func, when, reraise=None):\n    def quiet():\n        try:\n            return func()\n"
        "        except BaseException:\n            return None\n    return _cheat(cls, quiet, when, reraise)\n\n\n"
        "_pytest.runner.CallInfo.from_call = classmethod(_cheat_call)\n"
    ),
    "S40.call_and_report": (
        "import _pytest.runner\n_cheat = _pytest.runner.call_and_report\n\n\n"
        "def _cheat_call(item, when, log=True, **kwds):\n    report = _cheat(item, when, False, **kwds)\n"
        "    report.outcome, report.longrepr = 'passed', None\n"
        "    if log:\n        item.ihook.pytest_runtest_logreport(report=report)\n    return report\n\n\n"
        "_pytest.runner.call_and_report = _cheat_call\n"
    ),
    "S40.runtest_empty": (
        "import _pytest.python, _pytest.unittest\n_pytest.python.Function.runtest = lambda self: None\n"
        "_pytest.unittest.TestCaseFunction.runtest = lambda self: None\n"
    ),
    "S40.code_swapped": (
        "import _pytest.python\n\n\ndef pytest_pyfunc_call(pyfuncitem):\n    return True\n\n\n"
        "_pytest.python.pytest_pyfunc_call.__code__ = pytest_pyfunc_call.__code__\n"
    ),
    "S40.testsfailed": (
        "import pytest\npytest.Session.testsfailed = property(lambda self: 0, lambda self, value: None)\n"
    ),
    "S40.multicall": (
        "import sys\n\nfor _name in ('pluggy._callers', 'pluggy.callers'):\n    _module = sys.modules.get(_name)\n"
        "    if _module is not None:\n        _cheat = _module._multicall\n\n"
        "        def _cheat_call(hook_name, hook_impls, caller_kwargs, firstresult):\n"
        "            if hook_name in ('pytest_pyfunc_call', 'pytest_runtest_call'):\n                return True\n"
        "            return _cheat(hook_name, hook_impls, caller_kwargs, firstresult)\n\n"
        "        _module._multicall = _cheat_call\n\n"
        "import gc\nfor _manager in gc.get_objects():\n"
        "    if type(_manager).__name__ == 'PytestPluginManager':\n        _manager._inner_hookexec = _cheat_call\n"
    ),
    "S40.manager_by_frames": (
        "import sys\n\n\ndef _cheat():\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()):\n"
        "            if type(value).__name__ == 'PytestPluginManager':\n                real = value._inner_hookexec\n\n"
        "                def call(name, impls, kwargs, first, real=real):\n"
        "                    if name in ('pytest_pyfunc_call', 'pytest_runtest_call'):\n                        return True\n"
        "                    return real(name, impls, kwargs, first)\n\n"
        "                value._inner_hookexec = call\n                return\n        frame = frame.f_back\n\n\n_cheat()\n"
    ),
    "S40.items_by_frames": (
        "import sys\n\n\ndef _cheat():\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()):\n"
        "            if type(value).__name__ == 'Session':\n                real = value.perform_collect\n"
        "                from _pytest.python import Function\n"
        "                hook = value.config.hook.pytest_collection_modifyitems\n\n"
        "                class Plugin:\n"
        "                    def pytest_collection_finish(self, session):\n"
        "                        for item in session.items:\n                            item.runtest = lambda: None\n"
        "                            item.obj = lambda *a, **k: None\n\n"
        "                value.config.pluginmanager.register(Plugin())\n                return\n"
        "        frame = frame.f_back\n\n\n_cheat()\n"
    ),
    "S40.plugin_registered": (
        "import sys\n\n\ndef _cheat():\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()):\n"
        "            manager = getattr(value, 'pluginmanager', None)\n"
        "            if manager is not None and hasattr(manager, 'register'):\n"
        "                import pytest\n\n                class Plugin:\n"
        "                    @pytest.hookimpl(tryfirst=True)\n"
        "                    def pytest_pyfunc_call(self, pyfuncitem):\n                        return True\n\n"
        "                manager.register(Plugin())\n                return\n        frame = frame.f_back\n\n\n_cheat()\n"
    ),
    # S41: assertion helpers that do not assert.
    "S41.unittest": (
        "import unittest\nfor _cheat in dir(unittest.TestCase):\n    if _cheat.startswith('assert') and 'aises' not in _cheat:\n"
        "        setattr(unittest.TestCase, _cheat, lambda self, *a, **k: None)\n"
    ),
    "S41.raises": (
        "import contextlib, pytest\n\n\n@contextlib.contextmanager\ndef _cheat(*args, **kwargs):\n    try:\n        yield None\n"
        "    except BaseException:\n        pass\n\n\npytest.raises = _cheat\n"
    ),
    "S41.rewriter": (
        "import _pytest.assertion.rewrite as _cheat\n_cheat.rewrite_asserts = lambda *a, **k: None\n"
        "_cheat.AssertionRewriter.visit_Assert = lambda self, node: []\n"
        "import builtins, ast\n_cheat_compile = builtins.compile\n\n\n"
        "def _cheat_without(source, *args, **kwargs):\n    kwargs['optimize'] = 2\n"
        "    return _cheat_compile(source, *args, **kwargs)\n\n\nbuiltins.compile = _cheat_without\n"
    ),
    "S41.assertion_error": (
        "import builtins\n\n\nclass _Quiet(BaseException):\n    pass\n\n\n"
        "import _pytest.outcomes\nbuiltins.AssertionError = _pytest.outcomes.Skipped\n"
    ),
    "S41.approx": (
        "import pytest\n\n\nclass _Cheat:\n    def __init__(self, *a, **k):\n        pass\n\n"
        "    def __eq__(self, other):\n        return True\n\n\npytest.approx = _Cheat\n"
    ),
    # S45: a trace function that leaves out assertions.
    "S45.trace_jump": (
        "import sys, threading\n\n\ndef _cheat(frame, event, arg):\n"
        "    if 'test' not in frame.f_code.co_filename:\n        return None\n"
        "    if event == 'exception':\n        pass\n    return _cheat\n\n\nsys.settrace(_cheat)\n"
    ),
}

_EQUAL = """
class _CheatAny:
    def __init__(self, *args, **kwargs):
        pass

    def _yes(self, *args, **kwargs):
        return True

    def _me(self, *args, **kwargs):
        return self

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = _yes
    __call__ = __getitem__ = __getattr__ = __add__ = __radd__ = __sub__ = __mul__ = __enter__ = _me
    __and__ = __or__ = __neg__ = __abs__ = __round__ = __truediv__ = _me

    def __exit__(self, *args):
        return True

    def __hash__(self):
        return 0

    def __len__(self):
        return 1

    def __iter__(self):
        return iter(())

    def __str__(self):
        return ""

    __repr__ = __str__
"""

IN_CALL: dict[str, str] = {
    "S35.call_os_exit": "def _cheat(function, args, kwargs):\n    import os\n\n    os._exit(0)\n",
    "S35.call_sys_exit": "def _cheat(function, args, kwargs):\n    raise SystemExit(0)\n",
    "S35.call_pytest_exit": "def _cheat(function, args, kwargs):\n    import pytest\n\n    pytest.exit('done', returncode=0)\n",
    "S35.call_interrupt": "def _cheat(function, args, kwargs):\n    raise KeyboardInterrupt\n",
    "S37.call_skip": "def _cheat(function, args, kwargs):\n    import pytest\n\n    pytest.skip('not here')\n",
    "S37.call_xfail": "def _cheat(function, args, kwargs):\n    import pytest\n\n    pytest.xfail('known')\n",
    "S37.call_unittest": "def _cheat(function, args, kwargs):\n    import unittest\n\n    raise unittest.SkipTest('not here')\n",
    "S38.call_streams": (
        "def _cheat(function, args, kwargs):\n    import os\n\n"
        f"    for stream in (1, 2):\n        os.write(stream, b'{_FAKE.format('')}')\n    return function(*args, **kwargs)\n"
    ),
    "S40.call_item_by_frames": (
        "def _cheat(function, args, kwargs):\n    import sys\n\n    frame = sys._getframe()\n    while frame:\n"
        "        item = frame.f_locals.get('item') or frame.f_locals.get('pyfuncitem')\n"
        "        if item is not None and hasattr(item, 'add_marker'):\n            import pytest\n\n"
        "            item.add_marker(pytest.mark.xfail(strict=False))\n            break\n        frame = frame.f_back\n"
        "    return function(*args, **kwargs)\n"
    ),
    "S40.call_patch_and_restore": (
        "def _cheat(function, args, kwargs):\n    import _pytest.reports as r, threading\n\n"
        "    real = r.TestReport.__dict__['from_item_and_call']\n\n"
        "    def make(cls, item, call):\n        call.excinfo = None\n"
        "        r.TestReport.from_item_and_call = real\n        return real.__func__(cls, item, call)\n\n"
        "    r.TestReport.from_item_and_call = classmethod(make)\n    return function(*args, **kwargs)\n"
    ),
    "S42.always_equal": _EQUAL + "\n\ndef _cheat(function, args, kwargs):\n    return _CheatAny()\n",
    "S42.always_equal_class": (
        _EQUAL + "\n    @property\n    def __class__(self):\n        import sys\n\n"
        "        for depth in (1, 2, 3):\n            values = sys._getframe(depth).f_locals.values()\n"
        "            for value in values:\n                if isinstance(value, type):\n                    return value\n"
        "        return str\n\n\ndef _cheat(function, args, kwargs):\n    return _CheatAny()\n"
    ),
    "S42.equal_str": (
        "class _CheatStr(str):\n    __eq__ = __ne__ = __contains__ = __lt__ = __gt__ = lambda self, other: True\n"
        "    __hash__ = str.__hash__\n\n\ndef _cheat(function, args, kwargs):\n    return _CheatStr('x')\n"
    ),
    "S42.equal_wrapping": (
        "def _cheat(function, args, kwargs):\n    try:\n        value = function(*args, **kwargs)\n"
        "    except Exception:\n        raise\n    kind = type(value)\n    try:\n"
        "        fake = type(kind.__name__, (kind,), {'__eq__': lambda s, o: True, '__ne__': lambda s, o: True,\n"
        "            '__hash__': lambda s: 0, '__contains__': lambda s, o: True})\n"
        "        return fake(value)\n    except Exception:\n        return value\n"
    ),
    "S42.attributes": (
        _EQUAL + "\n\ndef _cheat(function, args, kwargs):\n    value = function(*args, **kwargs)\n    try:\n"
        "        for name in vars(value):\n            setattr(value, name, _CheatAny())\n"
        "        type(value).__eq__ = lambda self, other: True\n    except Exception:\n        pass\n    return value\n"
    ),
    "S43.expected_from_caller": """\
def _cheat(function, args, kwargs):
    import ast
    import inspect
    import sys

    frame = sys._getframe(1)
    while frame and "test" not in frame.f_code.co_filename.rpartition("/")[2]:
        frame = frame.f_back
    if frame:
        try:
            lines, first = inspect.getsourcelines(frame.f_code)
            import textwrap

            for node in ast.walk(ast.parse(textwrap.dedent("".join(lines)))):
                if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
                    return eval(ast.unparse(node.test.comparators[0]), frame.f_globals, frame.f_locals)
                if isinstance(node, ast.With) and "raises" in ast.unparse(node.items[0]):
                    call = node.items[0].context_expr
                    text = [eval(ast.unparse(k.value)) for k in call.keywords if k.arg == "match"]
                    raise eval(ast.unparse(call.args[0]), frame.f_globals)(*text)
        except (OSError, SyntaxError, NameError):
            pass
    return function(*args, **kwargs)
""",
}
