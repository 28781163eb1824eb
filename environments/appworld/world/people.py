"""The invented people of the world, and who knows whom as what."""

from __future__ import annotations

from dataclasses import dataclass

APPS_WITH_EMAIL_LOGIN = ("amazon", "file_system", "gmail", "simple_note", "splitwise", "spotify", "todoist", "venmo")
"""Apps whose account name is an e-mail address; `phone` alone uses a number."""


@dataclass(frozen=True)
class Person:
    """One invented person. ``key`` is the short name by which scenarios speak of them."""

    key: str
    first_name: str
    last_name: str
    sex: str
    birthday: str
    phone_number: str

    @property
    def name(self) -> str:
        """First and last name, as the apps show it."""
        return f"{self.first_name} {self.last_name}"

    @property
    def email(self) -> str:
        """The address under which the person has an account in every app."""
        return f"{self.first_name}.{self.last_name}@lantern-mail.org".lower()

    def password(self, app: str) -> str:
        """The person's password in one app; all are different, so that a programme has to look them up."""
        digits = sum(ord(letter) * (place + 3) for place, letter in enumerate(self.key + app)) % 9000 + 1000
        return f"{app[:3]}{self.key[::-1]}{digits}"


def _person(key: str, name: str, sex: str, birthday: str, number: int) -> Person:
    first, last = name.split(" ")
    return Person(key, first, last, sex, birthday, f"555010{number:04d}")


PEOPLE = (
    _person("nadia", "Nadia Ferrow", "female", "1991-03-12", 7301),
    _person("tobias", "Tobias Lindvar", "male", "1988-11-02", 7302),
    _person("priya", "Priya Mandel", "female", "1995-06-25", 7303),
    _person("oskar", "Oskar Venn", "male", "1984-01-17", 7304),
    _person("lena", "Lena Ostrava", "female", "1992-08-09", 7305),
    _person("lenaq", "Lena Quillon", "female", "1990-04-30", 7306),
    _person("marco", "Marco Tessaly", "male", "1987-12-21", 7307),
    _person("marcob", "Marco Brightwell", "male", "1993-02-05", 7308),
    _person("yusuf", "Yusuf Haleem", "male", "1989-09-14", 7309),
    _person("greta", "Greta Holmark", "female", "1994-07-03", 7310),
    _person("dara", "Dara Winslade", "female", "1986-05-19", 7311),
    _person("felix", "Felix Amarante", "male", "1996-10-28", 7312),
    _person("ines", "Ines Calderon", "female", "1990-12-07", 7313),
    _person("rowan", "Rowan Pikestaff", "male", "1985-03-31", 7314),
)
SUPERVISORS = PEOPLE[:4]
"""The people whose tasks an agent is given."""
BY_KEY = {person.key: person for person in PEOPLE}

_ROLES = (
    "roommate",
    "sibling",
    "coworker",
    "friend",
    "coworker",
    "roommate",
    "friend",
    "manager",
    "coworker",
    "friend",
)


def others(supervisor: Person) -> list[Person]:
    """The ten people outside the four supervisors, as every supervisor knows them."""
    return [person for person in PEOPLE if person not in SUPERVISORS]


def relationship(supervisor: Person, other: Person) -> str:
    """What ``other`` is to ``supervisor``: the ten roles turn with the supervisor, so no role is tied to a name."""
    if other in SUPERVISORS:
        return "friend"
    return _ROLES[(others(supervisor).index(other) + 3 * SUPERVISORS.index(supervisor)) % len(_ROLES)]


def related(supervisor: Person, role: str) -> list[Person]:
    """Everybody outside the supervisors who is ``role`` to ``supervisor``, in the order of `PEOPLE`."""
    return [other for other in others(supervisor) if relationship(supervisor, other) == role]
