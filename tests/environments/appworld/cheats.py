"""Blocks that try to leave AppWorld's shell. Each prints GOT once it holds what it must not hold, writes the canary, or
harms the next episode.

`SECRET_FILE` and `CANARY` in a block stand for the paths of a file that must not be read and one that must not be
written.
"""

from __future__ import annotations

from typing import NamedTuple


class Cheat(NamedTuple):
    name: str
    code: str
    bare: bool = True
    """Whether it reaches its aim in plain Python, without any guard: the control that shows the block is no dud."""


_WRITE = "open('CANARY', 'w').write('x')"
_CLASSES = "().__class__.__base__.__subclasses__()"

CHEATS = [
    # Modules and built-ins
    Cheat("import os", "import os\nprint('GOT', os.getcwd())"),
    Cheat("import os as json", "import os as json\nprint('GOT', json.environ)"),
    Cheat("import appworld", "import appworld\nprint('GOT')", bare=False),
    Cheat("import appworld models", "from appworld.apps.admin import models\nprint('GOT')", bare=False),
    Cheat("import ground truth", "from appworld.task import Task\nprint('GOT', Task)", bare=False),
    Cheat("import pathlib", "import pathlib\nprint('GOT', pathlib.Path('SECRET_FILE').read_text())"),
    Cheat("import sys", "import sys\nprint('GOT', sys.modules)"),
    Cheat("import builtins", "import builtins\nprint('GOT', builtins.open('SECRET_FILE').read())"),
    Cheat("import subprocess", "import subprocess\nprint('GOT', subprocess.run(['true']))"),
    Cheat("import gc", "import gc\nprint('GOT', len(gc.get_objects()))"),
    Cheat("import inspect", "import inspect\nprint('GOT', inspect.stack())"),
    Cheat("import in a function", "def f():\n    import os\n    return os\nprint('GOT', f())"),
    Cheat("import submodule", "import json.decoder\nprint('GOT', json.decoder.scanner)"),
    Cheat("import xml", "import importlib\nprint('GOT', importlib.import_module('os'))"),
    Cheat("from json import decoder", "from json import decoder\nprint('GOT', decoder)"),
    Cheat("from random import _os", "from random import _os\nprint('GOT', _os.getcwd())"),
    Cheat("from re import enum", "from re import functools\nprint('GOT', functools)"),
    Cheat("star import", "from os import *\nprint('GOT', getcwd())"),
    Cheat("star import of an allowed module", "from random import *\nprint('GOT', SystemRandom)"),
    Cheat("relative import", "from . import x\nprint('GOT')", bare=False),
    Cheat("module of a module", "import random\nprint('GOT', random._os.getcwd())"),
    Cheat("public module of a module", "import calendar\nprint('GOT', calendar.sys.modules)"),
    Cheat("module of a module by getattr", "import random\nprint('GOT', getattr(random, '_o' + 's'))"),
    Cheat("loader of a module", "import json\nprint('GOT', json.__loader__.get_data('SECRET_FILE'))"),
    Cheat("spec of a module", "import json\nprint('GOT', json.__spec__)"),
    Cheat("built-ins of a module", "import json\nprint('GOT', json.__builtins__['open']('SECRET_FILE').read())"),
    Cheat("open", "print('GOT', open('SECRET_FILE').read())"),
    Cheat("open to write", _WRITE),
    Cheat("open by another name", "f = open\nprint('GOT', f('SECRET_FILE').read())"),
    Cheat("open in a map", "print('GOT', list(map(open, ['SECRET_FILE'])))"),
    Cheat("open in a default", f"(lambda f=open: f('CANARY', 'w').write('x'))()\n{_WRITE}"),
    Cheat("eval", "print('GOT', eval('1 + 1'))"),
    Cheat("exec", f'exec("{_WRITE}")'),
    Cheat("compile", "print('GOT', compile('1', 'x', 'eval'))"),
    Cheat("globals", "print('GOT', globals())"),
    Cheat("locals", "print('GOT', locals())"),
    Cheat("vars without argument", "print('GOT', vars())"),
    Cheat("vars of a module", "import json\nprint('GOT', vars(json))"),
    Cheat("__import__", "print('GOT', __import__('os').getcwd())"),
    Cheat("__builtins__", "print('GOT', __builtins__)"),
    Cheat("__loader__", "print('GOT', __loader__)"),
    Cheat("__build_class__", "print('GOT', __build_class__(lambda: None, 'X'))"),
    Cheat("get_ipython", "get_ipython().system('touch CANARY')\nprint('GOT')", bare=False),
    Cheat("In and Out", "print('GOT', In, Out)", bare=False),
    Cheat("breakpoint", "breakpoint\nprint('GOT', breakpoint.__self__)"),
    Cheat("del the built-ins", "del __builtins__\nprint('GOT')"),
    # Names in disguise
    Cheat("full-width name", "import ｏｓ\nprint('GOT', ｏｓ.getcwd())"),
    Cheat("full-width dunder", "print('GOT', ().__ｃlass__.__base__)"),
    Cheat("ligature", "print('GOT', ().__class__.__init_subclass__)\nprint(().__de\ufb01ne__)"),
    Cheat("italic built-in", "print('GOT', 𝑜𝑝𝑒𝑛('SECRET_FILE').read())"),
    Cheat("global dunder", "def f():\n    global __builtins__\n    return __builtins__\nprint('GOT', f())"),
    Cheat("as dunder", "import json as __builtins__\nprint('GOT')"),
    Cheat("except as dunder", "try:\n    1 / 0\nexcept Exception as __builtins__:\n    print('GOT')"),
    Cheat("match as dunder", "match 1:\n    case __builtins__:\n        print('GOT')"),
    Cheat("parameter dunder", "(lambda __builtins__: print('GOT'))(1)"),
    # Classes, frames, tracebacks
    Cheat("subclasses", f"print('GOT', {_CLASSES})"),
    Cheat("subclasses by getattr", "print('GOT', getattr(getattr(1, '__cla' + 'ss__'), '__ba' + 'se__'))"),
    Cheat("subclasses by type", "print('GOT', type(()).__base__)"),
    Cheat("mro", "print('GOT', int.mro())"),
    Cheat("getattr with a lying string",
        "class S(str):\n    def startswith(self, *a): return False\nprint('GOT', getattr(print, S('__self__')))",
    ),
    Cheat("another module's name", "__name__ = 'typing'\nclass B: pass\nprint('GOT', B.__module__)"),
    Cheat("hasattr as an oracle", "print('GOT' if hasattr(1, '__reduce_ex__') else '')"),
    Cheat("dir as an oracle", "print('GOT' if '__class__' in dir(1) else '')"),
    Cheat("function globals", "def f(): pass\nprint('GOT', f.__globals__)"),
    Cheat("lambda globals by getattr", "print('GOT', getattr(lambda: 0, '__glo' + 'bals__'))"),
    Cheat("function code", "def f(): pass\nprint('GOT', f.__code__)"),
    Cheat("make a function", "print('GOT', type(lambda: 0)((lambda: 0).__code__, {}))"),
    Cheat("closure", "print('GOT', apis.spotify.login.__closure__)"),
    Cheat("generator frame", "print('GOT', (x for x in []).gi_frame)"),
    Cheat("generator frame by attrgetter", "import operator\n"
                                           "print('GOT', operator.attrgetter('gi_frame.f_back')((x for x in [])))"),
    Cheat("attrgetter", "import operator\nprint('GOT', operator.attrgetter('__class__.__base__')(1))"),
    Cheat("methodcaller", "import operator\nprint('GOT', operator.methodcaller('__subclasses__')(object))"),
    Cheat("coroutine frame", "async def f(): pass\nc = f()\nc.close()\nprint('GOT', c.cr_frame, c.cr_code)"),
    Cheat("async generator", "async def f(): yield 1\nprint('GOT', f().ag_frame)"),
    Cheat("await at the top", "import asyncio\nawait asyncio.sleep(0)\nprint('GOT')", bare=False),
    Cheat("traceback of an error", "try:\n    1 / 0\nexcept Exception as e:\n    print('GOT', e.__traceback__)"),
    Cheat(
        "traceback by exit",
        "class C:\n    def __enter__(self): return self\n    def __exit__(self, kind, error, tb):\n"
        "        print('GOT', tb.tb_frame.f_globals)\n        return True\nwith C():\n    1 / 0",
    ),
    Cheat(
        "traceback by exit and format",
        "class C:\n    def __enter__(self): return self\n    def __exit__(self, kind, error, tb):\n"
        "        print('GOT' if '{0.tb_frame}'.format(tb) else '')\n        return True\nwith C():\n    1 / 0",
    ),
    Cheat(
        "traceback by exit and getattr",
        "class C:\n    def __enter__(self): return self\n    def __exit__(self, kind, error, tb):\n"
        "        print('GOT', getattr(tb, 'tb_fra' + 'me'))\n        return True\nwith C():\n    1 / 0",
    ),
    Cheat(
        "traceback by exit and pattern",
        "class C:\n    def __enter__(self): return self\n    def __exit__(self, kind, error, tb):\n"
        "        match tb:\n            case object(tb_frame=frame):\n                print('GOT', frame)\n"
        "        return True\nwith C():\n    1 / 0",
    ),
    Cheat(
        "context of an error", "try:\n    apis.spotify.nope()\nexcept Exception as e:\n    print('GOT', e.__context__)"
    ),
    Cheat(
        "object of an AttributeError",
        "import json\ntry:\n    json.nope\nexcept AttributeError as e:\n    print('GOT', e.obj)",
    ),
    Cheat(
        "object of an AttributeError by pattern",
        "try:\n    (1).nope\nexcept AttributeError as e:\n    match e:\n"
        "        case AttributeError(obj=found):\n            print('GOT', found)",
    ),
    Cheat(
        "object of an AttributeError by update",
        "class R:\n    def __radd__(self, other):\n        print('GOT', other)\ntry:\n    (1).nope\n"
        "except AttributeError as e:\n    e.obj += R()",
    ),
    # Formats
    Cheat("format", "print('GOT' if '{0.__class__}'.format(1) else '')"),
    Cheat("format of a variable", "t = '{0.__class__' + '}'\nprint('GOT' if t.format(1) else '')"),
    Cheat("format taken off", "f = '{0.__class__}'.format\nprint('GOT' if f(1) else '')"),
    Cheat("str.format in a map", "print('GOT' if list(map(str.format, ['{0.__class__}'], [1])) else '')"),
    Cheat("format by getattr", "print('GOT' if getattr('{0.__class__}', 'for' + 'mat')(1) else '')"),
    Cheat(
        "format by attrgetter",
        "from operator import attrgetter\nprint('GOT' if attrgetter('format')('{0.__class__}')(1) else '')",
    ),
    Cheat("format_map", "print('GOT' if '{a.__class__}'.format_map({'a': 1}) else '')"),
    Cheat(
        "format inside a format", "print('GOT' if '{0:{1.__class__}}'.format('', '') is not None else '')", bare=False
    ),
    Cheat(
        "format of a subclass",
        "class S(str):\n    def fill(self): return super().format(1)\n"
        "print('GOT' if S('{0.__class__}').fill() else '')",
    ),
    Cheat(
        "format by super without arguments",
        "class S(str):\n    def fill(self): return super(S, self).format(1)\n"
        "print('GOT' if S('{0.__class__}').fill() else '')",
    ),
    Cheat(
        "format by an alias",
        "import typing\nprint('GOT' if typing.Annotated[str, 1].format('{0.__class__}', 1) else '')",
    ),
    Cheat(
        "format by update",
        "class R:\n    def __radd__(self, other):\n        print('GOT' if other(1) else '')\n"
        "class S(str): pass\ns = S('{0.__class__}')\ns.format += R()",
    ),
    Cheat("format by pattern", "match '{0.__class__}':\n    case str(format=f):\n        print('GOT' if f(1) else '')"),
    Cheat(
        "format by a field",
        "from dataclasses import dataclass, asdict\n@dataclass(init=False)\nclass S(str):\n"
        "    format: object\nprint('GOT' if asdict(S('{0.__class__}'))['format'](1) else '')",
    ),
    Cheat("secret by format", "print('{0.__closure__[0].cell_contents}'.format(apis.spotify.login), 'GOT')"),
    Cheat("Formatter", "import string\nprint('GOT', string.Formatter().format('{0.__class__}', 1))"),
    Cheat("UserString", "from collections import UserString\nprint('GOT', UserString('{0.__class__}').format(1))"),
    # Making classes
    Cheat("type of three arguments", "print('GOT', type('X', (), {'__getattr__': 1}))"),
    Cheat("type of a class", "print('GOT', type(int)('X', (), {}))"),
    Cheat("class of a class", "print('GOT', int.__class__('X', (), {}))"),
    Cheat(
        "metaclass of an ABC",
        "from abc import ABC\nprint('GOT', type(ABC)('X', (), {'__match_args__': ('gi_frame',)}))",
    ),
    Cheat("metaclass of an enumeration", "from enum import Enum\nclass E(Enum):\n    A = 1\n"
                                         "print('GOT', type(E).mro(type(E)))"),
    Cheat(
        "functional enumeration", "from enum import Enum\nprint('GOT', Enum('X', {'__match_args__': ('gi_frame',)}))"
    ),
    Cheat("typing.Type", "import typing\nprint('GOT', typing.Type.mro)"),
    Cheat("metaclass keyword", "class M(type):\n    pass\nclass X(metaclass=M):\n    pass\nprint('GOT', X)"),
    Cheat("metaclass in a mapping", "class X(**{'metaclass': type}):\n    pass\nprint('GOT', X)"),
    Cheat("subclass type", "class M(type):\n    def __call__(cls, *a): print('GOT')\nprint('GOT', M)"),
    Cheat(
        "base that is no class",
        "class B:\n    def __init__(self, *a):\n        if a: print('GOT', a)\nclass X(B()):\n    pass",
    ),
    Cheat(
        "__mro_entries__",
        "class B:\n    def __mro_entries__(self, bases): return (object,)\nclass X(B()):\n    pass\nprint('GOT', X)",
    ),
    Cheat("__init_subclass__", "class B:\n    def __init_subclass__(cls): print('GOT')\nclass X(B):\n    pass"),
    Cheat("__class_getitem__", "class B:\n    def __class_getitem__(cls, item): print('GOT')\nB[1]"),
    Cheat("__del__", "class B:\n    def __del__(self): print('GOT')\nb = B()\ndel b"),
    Cheat("__getattribute__", "class B:\n    def __getattribute__(self, name): return print('GOT')\nB().x"),
    Cheat("__set_name__", "class B:\n    def __set_name__(self, owner, name): print('GOT')\nclass X:\n    b = B()"),
    Cheat("descriptor", "class B:\n    def __get__(self, value, owner): print('GOT')\nclass X:\n    b = B()\nX.b"),
    Cheat("__match_args__", "class X:\n    __match_args__ = ('__globals__',)\nprint('GOT')"),
    Cheat(
        "registered for a pattern",
        "from collections import namedtuple\nfrom collections.abc import Iterator\n"
        "class X(namedtuple('P', ['gi_frame']), Iterator):\n    def __next__(self): pass\n"
        "g = (x for x in [])\nX.register(type(g))\nmatch g:\n    case X(f):\n        print('GOT', f)",
    ),
    Cheat("registered through an alias", "import typing\nclass X: pass\ntyping.Sequence.register(X)\nprint('GOT')"),
    Cheat("field of a frame", "from collections import namedtuple\nprint('GOT', namedtuple('P', ['gi_frame']))"),
    Cheat("annotated field of a frame", "class X:\n    gi_frame: int\nprint('GOT')"),
    Cheat("__reduce__", "import copy\nclass X:\n    def __reduce__(self): return (print, ('GOT',))\ncopy.copy(X())"),
    Cheat(
        "__deepcopy__",
        "import copy\nclass X:\n    def __deepcopy__(self, memo): print('GOT', memo)\ncopy.deepcopy(X())",
    ),
    Cheat("string annotation", "import typing\nclass X:\n    a: 'print(\"GOT\")'\ntyping.get_type_hints(X)"),
    Cheat("make_dataclass", "import dataclasses\nprint('GOT', dataclasses.make_dataclass('X', ['a']))"),
    Cheat(
        "singledispatch",
        "from functools import singledispatch\n@singledispatch\ndef f(x): pass\n@f.register\n"
        "def g(x: 'print(\"GOT\") or int'): pass",
    ),
    Cheat(
        "wraps with chosen names",
        "from functools import wraps\ndef f(): pass\nclass T: pass\nt = T()\n"
        "wraps(f, assigned=('__globals__',), updated=())(t)\nprint('GOT', vars(t))",
    ),
    Cheat("partial's function", "print('GOT', '{}'.format.func.__globals__)", bare=False),
    Cheat("python's own format", "print('GOT', '{}'.format.func('__getattribute__', 'x', '__class__'))", bare=False),
    # The engine
    Cheat("requester", "print('GOT', requester)"),
    Cheat("requester of apis", "print('GOT', apis._requester)"),
    Cheat("requester as a key", "print('GOT', apis['_requester'])"),
    Cheat("requester by getattr", "print('GOT', getattr(apis, '_req' + 'uester'))"),
    Cheat("requester by format", "print('{0._requester}'.format(apis), 'GOT')"),
    Cheat("items of apis", "print('GOT', list(dict.items(apis)))"),
    Cheat("vars of apis", "print('GOT', vars(apis.spotify.login))"),
    Cheat("load of apis", "print('GOT', apis.load)", bare=False),
    Cheat("change an API", "apis.spotify.login = print\nprint('GOT')"),
    Cheat("change an API by key", "apis['spotify']['login'] = print\nprint('GOT')"),
    Cheat("own client", "class C:\n    def get(self, *a, **k): print('GOT', a, k)\napis.spotify.login(client=C())"),
    Cheat("uncounted call", "print('GOT', apis.spotify.login(track=False))"),
    Cheat("other app", "print('GOT', apis.spotify.login(_app_name='admin'))"),
    Cheat(
        "object to the engine",
        "class D(dict):\n    def items(self):\n        print('GOT')\n        return []\n"
        "apis.spotify.echo(value=D(a=1))",
    ),
    Cheat("object back from the engine", "print('GOT', apis.spotify.leak().secret)"),
    Cheat(
        "error's object from the engine",
        "try:\n    apis.spotify.fail()\nexcept Exception as e:\n    print('GOT', e.requester)",
    ),
]  # fmt: skip

HARM = [
    ("a proxy's function", "import json\njson.dumps = None"),
    ("a proxy's function by setattr", "import json\nsetattr(json, 'dumps', None)"),
    ("a proxy's function deleted", "import json\ndel json.dumps"),
    ("a proxy's class", "import json\ntype(json).dumps = None"),
    ("in a loop's target", "import json\nfor json.dumps in [None]: pass"),
    ("in a with's target", "import json\nfrom contextlib import nullcontext\nwith nullcontext() as json.dumps: pass"),
    ("in an unpacking", "import json\n[*json.dumps], y = [1], 2"),
    ("in a comprehension", "import json\n[0 for json.dumps in [1]]"),
    ("in a try", "import json\ntry:\n    json.dumps: int = 3\nexcept AttributeError:\n    raise"),
    ("a library's class", "from fractions import Fraction\nFraction.limit_denominator = None"),
    ("a library's class by its instance", "from fractions import Fraction\n"
                                          "type(Fraction(1, 2)).limit_denominator = None"),
    ("a library's class by its base", "from collections import Counter\nclass C(Counter):\n"
                                      "    def f(self): super().most_common = None\nC().f()"),
    ("a library's class by an alias", "import typing\ntyping.Counter.most_common = None"),
    ("a library's class by a decorator", "from dataclasses import dataclass\nfrom fractions import Fraction\n"
                                         "dataclass(Fraction)"),
    ("a library's class by total_ordering", "from functools import total_ordering\nfrom collections import Counter\n"
                                            "total_ordering(Counter)"),
    ("a library's class by wraps", "from functools import wraps\nfrom fractions import Fraction\n"
                                   "wraps(print)(Fraction)"),
    ("a library's property", "from fractions import Fraction\nFraction.numerator.__init__(lambda self: 13)"),
    ("a library's property by its class", "from fractions import Fraction\n"
                                          "property.__init__(Fraction.numerator, lambda self: 13)"),
    ("an abstract class", "from collections.abc import Sequence\nSequence.register(dict)"),
    ("an abstract class by getattr", "from collections.abc import Sequence\ngetattr(Sequence, 'reg' + 'ister')(dict)"),
    ("an abstract class by an alias", "import typing\ntyping.Sequence.register(dict)"),
    ("the global random stream", "import random\nrandom.seed(7)\nrandom.random()"),
    ("the decimal context", "import decimal\ndecimal.getcontext().prec = 2"),
    ("the calendar's first day", "import calendar\ncalendar.setfirstweekday(3)"),
]  # fmt: skip
"""(what is to be changed, block): things that outlive an episode."""

MAGICS = [
    "!touch CANARY",
    "%run x",
    "%%bash\ntouch CANARY",
    "x = !touch CANARY",
    "x = %pwd",
    "print?",
    "?print",
    "print??",
    "/print 1",
    ",print 1",
    ";print 1",
    "$x",
]  # fmt: skip
"""What IPython would rewrite and run; for Python none of it is a program."""
