"""What a policy's block may name: modules and their members, built-ins, special methods; and what no block may
touch."""

from __future__ import annotations

import builtins
import itertools
import math

_BUILTINS = (
    "abs all any ascii bin bool bytearray bytes callable chr classmethod complex dict divmod enumerate "
    "filter float format frozenset "
    "hash hex int isinstance issubclass iter len list map max min next object oct ord pow property range "
    "repr reversed round set "
    "slice sorted staticmethod str sum super tuple zip True False None NotImplemented Ellipsis"
)
BUILTINS = frozenset(_BUILTINS.split()) | frozenset(
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException) and name not in ("SystemExit", "KeyboardInterrupt")
)
"""Built-ins handed over as they are; `proxies` adds safe versions of some others, and stubs that explain the rest."""

UNAVAILABLE = {
    "open": "there are no files here",
    "eval": "only the block itself is run",
    "exec": "only the block itself is run",
    "compile": "only the block itself is run",
    "globals": "name the variable",
    "locals": "name the variable",
    "breakpoint": "there is no debugger here",
    "help": "ask the api_docs app",
    "exit": "the task ends by an API call",
    "quit": "the task ends by an API call",
    "memoryview": "use bytes",
    "id": "compare with `is`",
    "get_ipython": "only plain Python runs here",
}
"""Built-ins that raise when called, with what to do instead."""

_ABC = (
    "Callable Collection Container Generator Hashable ItemsView Iterable Iterator KeysView Mapping MutableMapping "
    "MutableSequence MutableSet Reversible Sequence Set Sized ValuesView"
)
_TYPING = (
    "Annotated Any Callable ClassVar Collection Counter DefaultDict Deque Dict Final FrozenSet Generator "
    "Generic Hashable Iterable "
    "Iterator List Literal Mapping MutableMapping MutableSequence NamedTuple NewType NoReturn Optional "
    "OrderedDict Sequence Set Sized "
    "TYPE_CHECKING Tuple TypeAlias TypeVar TypedDict Union cast"
)
_RANDOM = (
    "betavariate choice choices expovariate gammavariate gauss getrandbits getstate lognormvariate "
    "normalvariate paretovariate "
    "randbytes randint random randrange sample seed setstate shuffle triangular uniform vonmisesvariate weibullvariate"
)
_PENDULUM = (
    "Date DateTime Duration Interval Time Timezone UTC MONDAY TUESDAY WEDNESDAY THURSDAY FRIDAY SATURDAY SUNDAY "
    "DAYS_PER_WEEK HOURS_PER_DAY MINUTES_PER_HOUR MONTHS_PER_YEAR SECONDS_PER_DAY SECONDS_PER_HOUR SECONDS_PER_MINUTE "
    "WEEKS_PER_YEAR YEARS_PER_CENTURY YEARS_PER_DECADE date datetime duration from_format from_timestamp "
    "instance interval "
    "local naive now parse time timezone today tomorrow yesterday"
)

MODULES: dict[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "__future__": "annotations",
        "abc": "ABC abstractmethod",
        "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
        "calendar": "Calendar FRIDAY IllegalMonthError MONDAY SATURDAY SUNDAY THURSDAY TUESDAY WEDNESDAY calendar "
        "day_abbr day_name "
        "isleap leapdays month month_abbr month_name monthcalendar monthrange timegm weekday",
        "collections": "ChainMap Counter OrderedDict abc defaultdict deque namedtuple",
        "collections.abc": _ABC,
        "contextlib": "closing contextmanager nullcontext suppress",
        "copy": "copy deepcopy",
        "dataclasses": "asdict astuple dataclass field fields is_dataclass replace",
        "datetime": "MAXYEAR MINYEAR UTC date datetime time timedelta timezone tzinfo",
        "decimal": (
            "Decimal InvalidOperation ROUND_CEILING ROUND_DOWN ROUND_FLOOR ROUND_HALF_DOWN ROUND_HALF_EVEN "
            "ROUND_HALF_UP ROUND_UP"
        ),
        "difflib": "SequenceMatcher get_close_matches",
        "enum": "Enum IntEnum StrEnum auto unique",
        "fractions": "Fraction",
        "functools": "cache cached_property cmp_to_key lru_cache partial reduce total_ordering wraps",
        "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
        "io": "BytesIO StringIO",
        "itertools": " ".join(name for name in vars(itertools) if not name.startswith("_")),
        "json": "JSONDecodeError JSONEncoder dumps loads",
        "math": " ".join(name for name in vars(math) if not name.startswith("_")),
        "numbers": "Integral Number Rational Real",
        "operator": "add and_ attrgetter concat contains countOf eq floordiv ge getitem gt indexOf inv invert is_ "
        "is_not itemgetter le "
        "lshift lt mod mul ne neg not_ or_ pos pow rshift sub truediv truth xor",
        "pendulum": _PENDULUM,
        "pprint": "pformat pp pprint",
        "random": _RANDOM + " Random",
        "re": "A ASCII DOTALL I IGNORECASE M MULTILINE Match Pattern S U UNICODE VERBOSE X compile error escape "
        "findall finditer "
        "fullmatch match search split sub subn",
        "statistics": "StatisticsError correlation covariance fmean geometric_mean harmonic_mean linear_regression "
        "mean median "
        "median_high median_low mode multimode pstdev pvariance quantiles stdev variance",
        "string": (
            "ascii_letters ascii_lowercase ascii_uppercase capwords digits hexdigits octdigits printable "
            "punctuation whitespace"
        ),
        "textwrap": "dedent fill indent shorten wrap",
        "time": "gmtime localtime mktime sleep strftime strptime struct_time time",
        "typing": _TYPING,
    }.items()
}
"""Importable modules and the members shown of each. None may evaluate text, look attributes up by name, keep state that
outlives an episode, or be a module itself, unless `proxies` replaces it by a safe version."""

_ARITHMETIC = "add sub mul matmul truediv floordiv mod pow lshift rshift and or xor"
_METHODS = (
    "init post_init repr str bytes format bool hash len length_hint iter next reversed contains getitem "
    "setitem delitem missing "
    "call enter exit eq ne lt le gt ge neg pos abs invert int float complex index round trunc floor ceil divmod rdivmod"
)
METHODS = frozenset(f"__{name}__" for name in _METHODS.split()) | frozenset(
    f"__{side}{name}__" for side in ("", "r", "i") for name in _ARITHMETIC.split()
)
"""Special methods a class may define and a block may call."""

READABLE = METHODS | {"__class__", "__dict__", "__doc__", "__name__", "__qualname__"}
"""Special attributes a block may read."""

_INTERNALS = (
    "f_back f_builtins f_code f_globals f_lasti f_lineno f_locals f_trace f_trace_lines f_trace_opcodes "
    "gi_code gi_frame gi_running gi_suspended gi_yieldfrom cr_await cr_code cr_frame cr_origin cr_running cr_suspended "
    "ag_await ag_code ag_frame ag_running ag_suspended tb_frame tb_lasti tb_lineno tb_next co_code "
    "co_consts co_names co_varnames "
    "co_freevars co_cellvars co_filename co_positions func_closure func_code func_defaults func_dict func_globals "
    "im_class im_func im_self mro"
)
INTERNALS = frozenset(_INTERNALS.split())
"""Attributes of frames, code, tracebacks, generators and classes through which everything else can be reached."""

WATCHED = frozenset({"__class__", "__dict__", "__init__", "format", "format_map", "register", "obj"})
"""Attributes that some objects must not give away: they are looked up by `proxies`, which sees the object."""


def special(name: str) -> bool:
    """Whether Python itself gives this name a meaning (`__x__`)."""
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def readable(name: str) -> bool:
    """Whether some object may be asked for this attribute."""
    return name not in INTERNALS and (not special(name) or name in READABLE)
