"""Ordinary programs, as agents write them: (blocks run one after another, what they print)."""

from __future__ import annotations

PROGRAMS: list[tuple[list[str], str]] = [
    (["x = 3\nx += 4\nprint(x * 2)"], "14\n"),
    (["total = 0\nfor i in range(5):\n    if i == 3: continue\n    total += i\nelse:\n    print(total)"], "7\n"),
    (["n = 10\nwhile n > 3:\n    n -= 2\nprint(n)"], "2\n"),
    (["print([a * b for a in range(3) for b in range(3) if a != b])"], "[0, 0, 0, 2, 0, 2]\n"),
    (["print({k: v for k, v in zip('ab', [1, 2])}, sorted({c for c in 'hello'}))"], "{'a': 1, 'b': 2} ['e', 'h', "
                                                                                    "'l', 'o']\n"),
    (["print(sum(x * x for x in range(4)), max([1, 5], key=lambda v: -v))"], "14 1\n"),
    (["def gcd(a, b):\n    return a if not b else gcd(b, a % b)\nprint(gcd(12, 18))"], "6\n"),
    (["def f(a, /, b=2, *rest, c, **more):\n    return a, b, rest, c, more\n"
      "print(f(1, 3, 4, c=5, d=6))"], "(1, 3, (4,), 5, {'d': 6})\n"),
    (["def counter():\n    n = 0\n    def tick():\n        nonlocal n\n        n += 1\n        return n\n"
      "    return tick\nt = counter()\nt()\nprint(t())"], "2\n"),
    (["def g():\n    got = yield 1\n    yield from [got, 3]\ni = g()\n"
      "print(next(i), i.send(2), list(i))"], "1 2 [3]\n"),
    (["seen = 0\ndef f():\n    global seen\n    seen += 1\nf()", "f()\nprint(seen)"], "2\n"),
    (["try:\n    int('x')\nexcept (ValueError, TypeError) as e:\n    print(type(e).__name__, e)\nfinally:\n"
      "    print('done')"], "ValueError invalid literal for int() with base 10: 'x'\ndone\n"),
    (["try:\n    1 / 0\nexcept Exception as e:\n    print(e.__class__.__name__, str(e), e.args)\nelse:\n"
      "    print('no')"], "ZeroDivisionError division by zero ('division by zero',)\n"),
    (["class Oops(Exception):\n    def __init__(self, code):\n        super().__init__(f'code {code}')\n"
      "        self.code = code\ntry:\n    raise Oops(4)\nexcept Oops as e:\n    print(e, e.code)"], "code 4 4\n"),
    (["try:\n    try:\n        {}['a']\n    except KeyError as e:\n"
      "        raise RuntimeError('outer') from e\nexcept RuntimeError as e:\n    print(e)"], "outer\n"),
    (["try:\n    raise ExceptionGroup('g', [ValueError(1), TypeError(2)])\nexcept* ValueError as g:\n"
      "    print(len(g.exceptions))\nexcept* TypeError:\n    print('t')"], "1\nt\n"),
    (["class A:\n    kind = 'a'\n    def __init__(self, n):\n        self._n = n\n        self.__m = n + 1\n"
      "    @property\n    def n(self):\n        return self._n\n    @staticmethod\n"
      "    def twice(x): return 2 * x\n    @classmethod\n    def of(cls, n): return cls(n)\n"
      "    def both(self): return self._n, self.__m\n    def grow(self):\n        self._n += 1\n"
      "        self.__m *= 2\n        return self\na = A.of(3)\n"
      "print(a.n, a.twice(2), a.grow().both(), A.kind)"], "3 4 (4, 8) a\n"),
    (["class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x\n"
      "    def __lt__(self, o): return self.x < o.x\n    def __hash__(self): return hash(self.x)\n"
      "    def __repr__(self): return f'P({self.x})'\n    __str__ = __repr__\n"
      "    def __add__(self, o): return P(self.x + o.x)\n    def __len__(self): return 2\n"
      "print(sorted([P(2), P(1)]), {P(1), P(1)}, P(1) + P(2), len(P(1)))"], "[P(1), P(2)] {P(1)} P(3) 2\n"),
    (["class Base:\n    def __init__(self, a): self.a = a\n    def who(self): return 'base'\n"
      "class Sub(Base):\n    def __init__(self, a, b):\n        super().__init__(a)\n        self.b = b\n"
      "    def who(self): return super().who() + ' sub'\ns = Sub(1, 2)\n"
      "print(s.a, s.b, s.who(), isinstance(s, Base), vars(s), s.__dict__)"], "1 2 base sub True {'a': 1, 'b': 2} "
                                                                             "{'a': 1, 'b': 2}\n"),
    (["class Old:\n    def __init__(self, a): self.a = a\nclass New(Old):\n"
      "    def __init__(self): Old.__init__(self, 7)\nprint(New().a)"], "7\n"),
    (["class C:\n    def __enter__(self):\n        print('in')\n        return self\n"
      "    def __exit__(self, kind, error, trace):\n        print('out', kind.__name__)\n"
      "        return True\nwith C() as c:\n    raise ValueError"], "in\nout ValueError\n"),
    (["from contextlib import contextmanager, suppress\n@contextmanager\ndef tag(n):\n    print(f'<{n}>')\n"
      "    yield n\n    print(f'</{n}>')\nwith tag('b') as t, suppress(KeyError):\n    {}[t]"], "<b>\n</b>\n"),
    (["x, *y = [1, 2, 3]\na, (b, c) = 0, (5, 6)\nprint(x, y, b, c, [1, 2, 3, 4][::2], 'abc'[-2:])"], "1 [2, 3] 5 6 "
                                                                                                     "[1, 3] bc\n"),
    (["w = 7.5\nn = 'x'\nprint(f'{n!r:>5}|{w:{6}.{2}f}|{w=}|{{}}')"], "  'x'|  7.50|w=7.5|{}\n"),
    (["print('{} {:>4} {0!r}'.replace('{0!r}', '').format('a', 'b'), '{0[k]} {n.x}'.format({'k': 1}, "
      "n=type('')) if False else '')"], "a    b  \n"),
    (["t = 'Hi {name}, {0} of {1[total]}'\n"
      "print(t.format(1, {'total': 2}, name='Al'), t.format_map.__name__ if False else '')"], "Hi Al, 1 of 2 \n"),
    (["print('%s %05.1f %(a)s' % () if False else '%s %05.1f' % ('a', 2.25), format(1234.5, "
      "',.2f'))"], "a 002.2 1,234.50\n"),
    (["print(list(map('{}!'.format, 'ab')), ', '.join(map(str, [1, 2])))"], "['a!', 'b!'] 1, 2\n"),
    (["if (n := len('four')) > 3:\n    print(n)"], "4\n"),
    (["def kind(v):\n    match v:\n        case 0: return 'zero'\n"
      "        case [x, *rest]: return f'list {x} {rest}'\n"
      "        case {'a': a, **more}: return f'map {a} {more}'\n"
      "        case str() | bytes(): return 'text'\n        case int(n) if n > 9: return 'big'\n"
      "        case _: return 'other'\n"
      "print([kind(v) for v in (0, [1, 2], {'a': 1, 'b': 2}, 'x', 10, 5)])"], "['zero', 'list 1 [2]', \"map 1 {'b': "
                                                                              "2}\", 'text', 'big', 'other']\n"),
    (["from dataclasses import dataclass, field, asdict, replace\n@dataclass(order=True, frozen=False)\n"
      "class Song:\n    title: str\n    plays: int = 0\n    tags: list = field(default_factory=list)\n"
      "s = Song('a', 2)\ns.plays += 1\nprint(s, asdict(replace(s, title='b')), Song('a') < Song('b'))\n"
      "match s:\n    case Song(title=t, plays=3): print(t)"], "Song(title='a', plays=3, tags=[]) {'title': 'b', "
                                                              "'plays': 3, 'tags': []} True\na\n"),
    (["from enum import Enum, IntEnum, auto\nclass Level(IntEnum):\n    LOW = auto()\n    HIGH = auto()\n"
      "class Colour(Enum):\n    RED = 'r'\n"
      "print(Level(2).name, Level.LOW < Level.HIGH, [c.value for c in Colour], Colour['RED'], "
      "repr(Colour('r')))"], "HIGH True ['r'] Colour.RED <Colour.RED: 'r'>\n"),
    (["from collections import namedtuple, Counter, defaultdict, OrderedDict, deque\n"
      "P = namedtuple('P', 'x y')\np = P(1, y=2)\nd = defaultdict(list)\nd['a'].append(p.x)\n"
      "print(p, p._asdict(), p._replace(x=5), P._fields, dict(d), Counter('aab').most_common(1), deque([1, "
      "2], maxlen=1))"], "P(x=1, y=2) {'x': 1, 'y': 2} P(x=5, y=2) ('x', 'y') {'a': [1]} [('a', 2)] deque([2], "
                         "maxlen=1)\n"),
    (["from typing import NamedTuple, Optional, List, Dict\nclass P(NamedTuple):\n    x: int\n"
      "    y: Optional[int] = None\ndef f(a: List[int], b: Dict[str, int] | None = None) -> list[int]:\n"
      "    return a\nprint(P(1), f([1]))"], "P(x=1, y=None) [1]\n"),
    (["import json\n"
      "print(json.loads('{\"a\": [1, null]}'), json.dumps({'b': 1}, indent=None, sort_keys=True))\ntry:\n"
      "    json.loads('{')\nexcept json.JSONDecodeError as e:\n    print(e.pos)"], "{'a': [1, None]} {\"b\": 1}\n1\n"),
    (["import re\nm = re.search(r'(\\w+)@(?P<host>\\w+)', 'to al@home')\n"
      "print(m.group(1), m['host'], re.findall(r'\\d+', 'a1b22'), re.sub(r'(a)', r'<\\1>', 'cat', "
      "flags=re.I), re.split(', *', 'a,  b'))"], "al home ['1', '22'] c<a>t ['a', 'b']\n"),
    (["import datetime\nfrom datetime import timedelta, datetime as dt\n"
      "d = dt.strptime('2024-02-28 10:00', '%Y-%m-%d %H:%M') + timedelta(days=2)\n"
      "print(d.isoformat(), d.strftime('%d %b'), datetime.date(2024, 1, 1).weekday(), "
      "dt.fromisoformat('2024-01-01') < d)"], "2024-03-01T10:00:00 01 Mar 0 True\n"),
    (["import math, statistics as st\n"
      "print(math.ceil(2.1), math.pi > 3, math.isclose(0.1 + 0.2, 0.3), st.mean([1, 2, 3]), st.median([1, "
      "4]))"], "3 True True 2 2.5\n"),
    (["import itertools as it\nfrom functools import reduce, partial, lru_cache, wraps, cmp_to_key\n"
      "@lru_cache(maxsize=None)\ndef fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
      "print(list(it.chain([1], it.islice(it.count(5), 2))), reduce(lambda a, b: a * b, [1, 2, 3]), "
      "partial(pow, 2)(5), fib(50), [k for k, g in it.groupby('aab')])"], "[1, 5, 6] 6 32 12586269025 ['a', 'b']\n"),
    (["from functools import wraps\ndef loud(f):\n    @wraps(f)\n    def g(*a, **k):\n"
      "        return f(*a, **k) + '!'\n    return g\n@loud\ndef hi(name): return 'hi ' + name\n"
      "print(hi('al'), hi.__name__)"], "hi al! hi\n"),
    (["import heapq, bisect, operator, string, textwrap, calendar, copy\n"
      "from decimal import Decimal, ROUND_HALF_UP\nfrom fractions import Fraction\nh = [3, 1, 2]\n"
      "heapq.heapify(h)\n"
      "print(heapq.heappop(h), bisect.bisect([1, 3], 2), sorted([(1, 'b'), (0, 'c')], "
      "key=operator.itemgetter(1)), string.digits, textwrap.shorten('a b c', 3, placeholder=''), "
      "*calendar.monthrange(2024, 2), copy.deepcopy({'a': [1]}), Decimal('2.345').quantize(Decimal('.01'), "
      "ROUND_HALF_UP), Fraction(1, 3) + 1)"], "1 1 [(1, 'b'), (0, 'c')] 0123456789 a b 3 29 {'a': [1]} 2.35 4/3\n"),
    (["import random\nrandom.seed(5)\na = random.randint(1, 100)\nrandom.seed(5)\n"
      "print(a == random.randint(1, 100), len(random.sample(range(9), 3)))"], "True 3\n"),
    (["from operator import attrgetter\nclass S:\n    def __init__(self, n): self.n = n\n"
      "print([s.n for s in sorted([S(2), S(1)], key=attrgetter('n'))])"], "[1, 2]\n"),
    (["class S: pass\ns = S()\nsetattr(s, 'a', 1)\n"
      "print(getattr(s, 'a'), getattr(s, 'b', None), hasattr(s, 'a'), hasattr(s, 'c'), dir(s))\n"
      "delattr(s, 'a')\nprint(hasattr(s, 'a'))"], "1 None True False ['a']\nFalse\n"),
    (["def f(): pass\nf.calls = 0\nf.calls += 1\nprint(f.calls)"], "1\n"),
    (["print(type(3).__name__, type([]) is list, isinstance(type(3), type), type(None), "
      "callable(print))"], "int True True <class 'NoneType'> True\n"),
    (["from abc import ABC, abstractmethod\nclass Shape(ABC):\n    @abstractmethod\n"
      "    def area(self): ...\nclass Square(Shape):\n    def area(self): return 4\nprint(Square().area())\n"
      "try:\n    Shape()\nexcept TypeError:\n    print('abstract')"], "4\nabstract\n"),
    (["def main():\n    print('main')\nif __name__ == '__main__':\n    main()"], "main\n"),
    (["id = 3\ntype = 'x'\ninput = [id, type]\nprint(input)", "print(id)"], "[3, 'x']\n3\n"),
    (["_, last = (1, 2)\n_tmp = [_ for _ in range(2)]\n__x = 4\nprint(last, _tmp, __x)"], "2 [0, 1] 4\n"),
    (["# a comment?\ntext = '''\n!ls\n%run\nwhat?\n'''\nprint(text.split())"], "['!ls', '%run', 'what?']\n"),
    (["from __future__ import annotations\nimport collections.abc as cabc\nfrom collections import abc\n"
      "def f(a: Undefined) -> cabc.Mapping: return a\nprint(f(1), isinstance({}, abc.Mapping))"], "1 True\n"),
    (["import pprint, io, time\npprint.pprint({'b': [1, 2], 'a': 1})\nout = io.StringIO()\n"
      "print('x', file=out)\nprint(out.getvalue().strip(), time.strftime('%Y', time.gmtime(0)))"], "{'a': 1, 'b': "
                                                                                                   "[1, 2]}\nx 1970\n"),
    (["r = apis.spotify.login(username='a', password='b')\ntoken = r['access_token']\n"
      "found = apis.spotify.search(query='x', access_token=token)\n"
      "print(token, [s['title'] for s in found if not s['liked']])"], "token ['x', 'x', 'x']\n"),
    (["page = 0\nwhile True:\n    got = apis.spotify.search(query=str(page))\n    page += 1\n"
      "    if page == 3: break\nprint(got[0]['title'])"], "2\n"),
    (["for app in apis:\n"
      "    print(app, 'login' in apis[app], callable(apis[app]['login']), callable(getattr(apis.spotify, "
      "'login')))"], "spotify True True True\n"),
    (["try:\n    apis.spotify.fail()\nexcept Exception as e:\n    print(e)"], "Response status code is 401\n"),
    (["try:\n    apis.spotify.nope\nexcept Exception as e:\n    print(e)"], "422: No name 'nope' there.\n"),
    (["print(apis.spotify.echo(a=1, b=[1.5, None, True], c={'d': ('e',)}))"], "{'a': 1, 'b': [1.5, None, True], 'c': "
                                                                              "{'d': ('e',)}}\n"),
]  # fmt: skip
