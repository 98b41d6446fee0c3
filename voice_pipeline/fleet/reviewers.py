"""Simulated reviewers: people with a known error rate who answer whatever is asked.

They know the reference text of each clip and write it down, with the chance `error_rate` of one slip a transcript: a
word dropped, doubled or misspelt. What each would write for a clip is fixed by the seed, so a story tells itself the
same way twice.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import select

from voice_pipeline.labeling.reviews import submit_reviews
from voice_pipeline.labeling.tasks import ANSWERABLE
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.labeling import Review
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import label_tasks, reviews

NAMES = ("reviewer-ada", "reviewer-ben", "reviewer-chi", "reviewer-dee", "reviewer-eli")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class SimulatedReviewers:
    """Args:
    truth: reference text by clip id; clips that are not in it are left to others.
    error_rate: chance in [0, 1] that a transcript has a slip.
    names: at least four, so that every pass of a clip finds someone new.
    """

    truth: Mapping[str, str]
    error_rate: float = 0.02
    seed: int = 0
    names: tuple[str, ...] = field(default=NAMES)

    def answer_open_tasks(self, store: Store) -> int:
        """Answer everything that can be answered, the passes that answers open included; returns how many answers."""
        policy = load_labeling_policy(store.settings.policy_dir)
        answered = 0
        while answers := self._round(store):
            answered += len(submit_reviews(store, policy, answers))
        return answered

    def _round(self, store: Store) -> list[Review]:
        """One answer to each answerable task, but one a clip: its next pass may depend on it."""
        took_part: dict[str, set[str]] = {}
        for row in store.database.rows(select(reviews.c.clip_id, reviews.c.reviewer)):
            took_part.setdefault(row["clip_id"], set()).add(row["reviewer"])
        tasks = store.database.rows(
            select(label_tasks.c.task_id, label_tasks.c.clip_id)
            .where(label_tasks.c.state.in_(ANSWERABLE))
            .order_by(label_tasks.c.task_id)
        )
        answers: dict[str, Review] = {}
        for task in tasks:
            clip_id = task["clip_id"]
            free = [name for name in self.names if name not in took_part.get(clip_id, ())]
            if clip_id in self.truth and clip_id not in answers and free:
                reviewer = free[int(digest([self.seed, task["task_id"]])[:8], 16) % len(free)]
                answers[clip_id] = Review(
                    task_id=task["task_id"],
                    reviewer=reviewer,
                    transcript=self.transcribe(clip_id, reviewer),
                    submitted_at=store.now(),
                )
        return list(answers.values())

    def transcribe(self, clip_id: str, reviewer: str) -> str:
        """What `reviewer` writes for a clip: its reference, now and then with a slip."""
        rng = random.Random(f"{self.seed}|{clip_id}|{reviewer}")
        words = self.truth[clip_id].split()
        if rng.random() >= self.error_rate or not words:
            return " ".join(words)
        place = rng.randrange(len(words))
        slip = rng.choice(("drop", "double", "misspell")) if len(words) > 1 else rng.choice(("double", "misspell"))
        if slip == "drop":
            words.pop(place)
        elif slip == "double":
            words.insert(place, words[place])
        else:
            words[place] = _misspelt(words[place], rng)
        return " ".join(words)


def _misspelt(word: str, rng: random.Random) -> str:
    place = rng.randrange(len(word))
    other = rng.choice([letter for letter in LETTERS if letter != word[place]])
    return word[:place] + other + word[place + 1 :]
