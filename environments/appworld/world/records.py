"""Writing records of the apps: a method per kind of thing, with the side records the apps themselves would write."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from environments.appworld.world.engine import NOW, Engine
from environments.appworld.world.people import BY_KEY, PEOPLE, Person

_NUMBER = {person.key: number for number, person in enumerate(PEOPLE, start=1)}


def ago(days: float = 0, hours: float = 0) -> datetime:
    """The moment so long before the world's present."""
    return NOW - timedelta(days=days, hours=hours)


class World:
    """The world as a scenario sees it: the task's supervisor (``me``), and methods that write records, returning
    ids."""

    def __init__(self, engine: Engine, me: Person) -> None:
        self.engine = engine
        self.me = me

    @property
    def models(self) -> Any:
        """The package's models by app, for queries."""
        return self.engine.models

    def person(self, key: str) -> Person:
        """The person of that key, or the supervisor for ``me``."""
        return self.me if key == "me" else BY_KEY[key]

    def user(self, person: Person | str) -> int:
        """The person's account number, the same in every app."""
        return _NUMBER[person.key if isinstance(person, Person) else self.person(person).key]

    def save(self, model: str, **fields: Any) -> int:
        """Write one record of ``app.Model`` and return its id; moments may be given as `datetime` or ISO text."""
        app, name = model.split(".")
        moments = {key: self.engine.moment(value) for key, value in fields.items() if isinstance(value, datetime)}
        record = self.models[app][name].create_save(**{**fields, **moments})
        return int(record.id)

    def note(
        self,
        title: str,
        content: str,
        *,
        tags: Sequence[str] = (),
        days: float = 3,
        pinned: bool = False,
        owner: Person | str = "me",
    ) -> int:
        """A note of ``owner``, last edited ``days`` ago."""
        when = ago(days)
        return self.save(
            "simple_note.Note",
            user_id=self.user(owner),
            title=title,
            content=content,
            tags=list(tags),
            pinned=pinned,
            created_at=when,
            updated_at=when,
        )

    def text(self, sender: Person | str, receiver: Person | str, message: str, *, days: float = 1) -> int:
        """A text message in both people's phones; returns the global message's id."""
        when = ago(days)
        people = (self.user(sender), self.user(receiver))
        message_id = self.save(
            "phone.GlobalTextMessage", sender_id=people[0], receiver_id=people[1], message=message, created_at=when
        )
        for owner in people:
            self.save("phone.UserTextMessage", global_text_message_id=message_id, user_id=owner, created_at=when)
        return message_id

    def alarm(
        self, time: str, label: str, *, days: Sequence[str] = (), enabled: bool = True, owner: Person | str = "me"
    ) -> int:
        """An alarm on ``owner``'s phone."""
        return self.save(
            "phone.Alarm",
            user_id=self.user(owner),
            time=time,
            label=label,
            repeat_days=list(days),
            enabled=enabled,
            snooze_minutes=10,
            vibration=True,
            created_at=ago(30),
        )

    def mail(
        self,
        sender: Person | str,
        receiver: Person | str,
        subject: str,
        body: str,
        *,
        days: float = 2,
        read: bool = False,
    ) -> tuple[int, int]:
        """An e-mail that opens a thread; returns the id of the receiver's thread and of the e-mail."""
        when = ago(days)
        people = (self.user(sender), self.user(receiver))
        email = self.save(
            "gmail.Email", sender_id=people[0], recipient_ids=[people[1]], subject=subject, body=body, created_at=when
        )
        thread = self.save("gmail.GlobalEmailThread", email_ids=[email], created_at=when, updated_at=when)
        ids = [
            self.save(
                "gmail.UserEmailThread",
                global_email_thread_id=thread,
                user_id=user,
                email_ids=[email],
                incoming=user == people[1],
                outgoing=user == people[0],
                read=read or user == people[0],
                created_at=when,
                updated_at=when,
            )
            for user in people
        ]
        return ids[1], email

    def payment(
        self,
        sender: Person | str,
        receiver: Person | str,
        amount: float,
        description: str,
        *,
        days: float = 5,
        private: bool = False,
    ) -> int:
        """A past payment between two people."""
        when = ago(days)
        return self.save(
            "venmo.Transaction",
            sender_id=self.user(sender),
            receiver_id=self.user(receiver),
            amount=amount,
            description=description,
            private=private,
            created_at=when,
            updated_at=when,
        )

    def request(
        self, sender: Person | str, receiver: Person | str, amount: float, description: str, *, days: float = 2
    ) -> int:
        """An open payment request from ``sender``, who gets the money, to ``receiver``."""
        when = ago(days)
        return self.save(
            "venmo.PaymentRequest",
            sender_id=self.user(sender),
            receiver_id=self.user(receiver),
            amount=amount,
            description=description,
            created_at=when,
            updated_at=when,
        )

    def playlist(
        self, title: str, songs: Sequence[int], *, public: bool = False, owner: Person | str = "me", days: float = 40
    ) -> int:
        """A playlist of ``owner`` with these songs in this order."""
        playlist = self.save(
            "spotify.Playlist", title=title, user_id=self.user(owner), is_public=public, created_at=ago(days)
        )
        for song in songs:
            self.save("spotify.PlaylistSong", playlist_id=playlist, song_id=song, added_at=ago(days))
        return playlist

    def project(self, name: str, *, owner: Person | str = "me", shared_with: Sequence[Person | str] = ()) -> int:
        """A to-do project, its owner and collaborators linked."""
        project = self.save("todoist.Project", user_id=self.user(owner), name=name, created_at=ago(60))
        for person in (owner, *shared_with):
            self.save(
                "todoist.ProjectCollaboratorLink", project_id=project, user_id=self.user(person), created_at=ago(60)
            )
        return project

    def todo(
        self,
        project: int,
        title: str,
        order: int,
        *,
        due: str | None = None,
        priority: str = "medium",
        done: bool = False,
        owner: Person | str = "me",
        section: int | None = None,
    ) -> int:
        """A task in a to-do project; ``due`` is an ISO date."""
        return self.save(
            "todoist.Task",
            project_id=project,
            section_id=section,
            user_id=self.user(owner),
            title=title,
            description="",
            due_date=datetime.fromisoformat(due) if due else None,
            priority=priority,
            is_completed=done,
            order_index=order,
            created_at=ago(20),
        )

    def file(self, path: str, content: str, *, days: float = 10, owner: Person | str = "me") -> int:
        """A file below ``owner``'s home, with the folders on the way; ``path`` is relative to the home."""
        home = f"/home/{self.person(owner).first_name.lower() if isinstance(owner, str) else owner.first_name.lower()}/"
        self.folder(path.rsplit("/", 1)[0] if "/" in path else "", owner=owner)
        when = ago(days)
        return self.save(
            "file_system.File",
            path=home + path,
            user_id=self.user(owner),
            content=content,
            created_at=when,
            updated_at=when,
        )

    def folder(self, path: str, *, owner: Person | str = "me") -> None:
        """A folder below ``owner``'s home and its parents, where they are not there yet."""
        person = owner if isinstance(owner, Person) else self.person(owner)
        parts = [part for part in ("home", person.first_name.lower(), *path.split("/")) if part]
        directories = self.models.file_system.Directory
        for depth in range(len(parts) + 1):
            full = "/" + "".join(part + "/" for part in parts[:depth])
            if directories.find_one(user_id=self.user(person), path=full) is None:
                self.save(
                    "file_system.Directory",
                    path=full,
                    user_id=self.user(person),
                    created_at=ago(200),
                    updated_at=ago(200),
                )

    def group(self, name: str, members: Sequence[Person | str], *, owner: Person | str = "me") -> int:
        """A group that shares expenses."""
        code = f"code{self.models.splitwise.Group.size() + 1:03d}"
        group = self.save(
            "splitwise.Group", user_id=self.user(owner), name=name, invitation_code=code, created_at=ago(90)
        )
        for member in members:
            self.save("splitwise.GroupMember", group_id=group, user_id=self.user(member), joined_at=ago(90))
        return group

    def expense(
        self,
        payer: Person | str,
        debtors: Sequence[Person | str],
        amount: float,
        description: str,
        *,
        group: int | None = None,
        days: float = 6,
    ) -> int:
        """An expense that ``payer`` paid and ``debtors`` owe in equal shares."""
        users = [self.user(debtor) for debtor in debtors]
        expense = self.save(
            "splitwise.Expense",
            user_id=self.user(payer),
            payer_id=self.user(payer),
            debtor_ids=users,
            group_id=group,
            amount=amount,
            description=description,
            created_at=ago(days),
        )
        for user in users:
            self.save(
                "splitwise.ExpenseShare", expense_id=expense, debtor_id=user, share_amount=round(amount / len(users), 2)
            )
        return expense
