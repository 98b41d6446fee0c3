"""The audio of a task, for the one who reviews it: decrypted in memory, never written."""

from __future__ import annotations

from sqlalchemy import select

from voice_pipeline.labeling.consented import reviewable_clip
from voice_pipeline.labeling.errors import TaskWithdrawnError, UnknownTaskError
from voice_pipeline.schema.labeling import TaskState
from voice_pipeline.store.errors import ErasedSubjectError, MissingBlobError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import label_tasks


def task_audio(store: Store, task_id: str) -> bytes:
    """FLAC bytes (16 kHz mono) of the clip that `task_id` asks about.

    Raises:
        UnknownTaskError: no such task.
        TaskWithdrawnError: the clip was erased, its consent revoked, or the task withdrawn.
    """
    with store.database.read() as connection:
        task = connection.execute(select(label_tasks).where(label_tasks.c.task_id == task_id)).mappings().first()
        if task is None:
            raise UnknownTaskError(f"task {task_id} does not exist; ask for the next one")
        clip = reviewable_clip(connection, task["clip_id"])
    gone = TaskWithdrawnError(f"the clip of task {task_id} may no longer be heard; ask for the next one")
    if clip is None or task["state"] == TaskState.WITHDRAWN.value:
        raise gone
    try:
        ciphertext = store.blobs.get(clip["blob_key"])
        return store.vault.decrypt(clip["subject_token"], ciphertext, clip["clip_id"])
    except (ErasedSubjectError, MissingBlobError) as error:
        raise gone from error
