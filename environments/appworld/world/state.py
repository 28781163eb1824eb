"""The state all tasks start from: accounts, contacts, a music catalogue, and what fills the apps."""

from __future__ import annotations

from environments.appworld.world import catalogue, life
from environments.appworld.world.engine import Engine
from environments.appworld.world.people import APPS_WITH_EMAIL_LOGIN, PEOPLE, SUPERVISORS, Person, others, relationship
from environments.appworld.world.records import World, ago


def fill(engine: Engine) -> None:
    """Write the base state. Errors: the package's own, where a record breaks one of its rules."""
    _api_docs(engine)
    _accounts(engine)
    _supervisors(engine)
    for supervisor in SUPERVISORS:
        _contacts(World(engine, supervisor))
    catalogue.fill(engine)
    life.fill(engine)


def _api_docs(engine: Engine) -> None:
    from appworld.api_docs import prepare_api_docs

    model = engine.models.api_docs.ApiDoc
    rows = []
    for app in engine.apps:
        for doc in prepare_api_docs(app) if app != "admin" else []:
            fields = {key: value for key, value in doc.items() if key != "app_name"}
            rows.append(model.create(app_name_=app, **fields))
    model.save_all(rows)


def _accounts(engine: Engine) -> None:
    for app in (*APPS_WITH_EMAIL_LOGIN, "phone"):
        model = engine.models[app].User
        rows = []
        for number, person in enumerate(PEOPLE):
            fields = {
                "first_name": person.first_name,
                "last_name": person.last_name,
                "password": person.password(app),
                "email": person.email,
                "phone_number": person.phone_number,
                "verified": True,
                "created_at": engine.moment(ago(700 - 10 * number)),
                "last_logged_in": engine.moment(ago(9)),
                "venmo_balance": 1500.0,
            }
            rows.append(model.create(**{key: value for key, value in fields.items() if key in model.field_names()}))
        model.save_all(rows)


def card(person: Person) -> dict[str, object]:
    """The fields of the one payment card of a supervisor."""
    number = SUPERVISORS.index(person) + 1
    return {
        "owner_name": person.name,
        "card_name": "Visa",
        "card_number": 4000123400000000 + 1111 * number,
        "expiry_year": 2029,
        "expiry_month": number,
        "cvv_number": 210 + number,
    }


def _supervisors(engine: Engine) -> None:
    for person in SUPERVISORS:
        world = World(engine, person)
        user = world.save(
            "admin.MainUser",
            first_name=person.first_name,
            last_name=person.last_name,
            email=person.email,
            phone_number=person.phone_number,
            birthday=person.birthday,
            sex=person.sex,
        )
        for app in (*APPS_WITH_EMAIL_LOGIN, "phone"):
            world.save("admin.AccountPassword", main_user_id=user, account_name=app, password=person.password(app))
        world.save("admin.PaymentCard", main_user_id=user, balance=5000.0, **card(person))
        world.save("venmo.PaymentCard", user_id=world.user(person), **card(person))


def _contacts(world: World) -> None:
    friends = [person for person in SUPERVISORS if person is not world.me]
    for number, person in enumerate([*others(world.me), *friends]):
        world.save(
            "phone.Contact",
            user_id=world.user("me"),
            first_name=person.first_name,
            last_name=person.last_name,
            email=person.email,
            phone_number=person.phone_number,
            relationships=[relationship(world.me, person)],
            birthday=person.birthday,
            created_at=ago(300 - number),
        )
