"""Every table of the catalogue, in the order in which a clip meets them; the vault has `vault_tables`.

Times are ISO-8601 UTC strings (sortable, the same in SQLite and PostgreSQL). JSON columns hold what is only ever read
whole. `SCHEMA_VERSION` is stamped into both databases; another version is refused, never guessed at.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text
from sqlalchemy import UniqueConstraint as Unique

SCHEMA_VERSION = 2

catalogue = MetaData()

meta = Table("meta", catalogue, Column("key", String, primary_key=True), Column("value", String, nullable=False))

# --- capture ----------------------------------------------------------------------------------------------------------
consents = Table(
    "consents",
    catalogue,
    Column("consent_id", String, primary_key=True),
    Column("subject_token", String, nullable=False, index=True),
    Column("scopes", JSON, nullable=False),
    Column("granted_at", String, nullable=False),
    Column("notice_version", String, nullable=False),
    Column("jurisdiction", String, nullable=False, default=""),
    Column("revoked_at", String),
)

inbox = Table(  # what the edge acknowledged; captured_clips[day] turns each line into a clip or a quarantine entry
    "inbox",
    catalogue,
    Column("event_id", String, primary_key=True),
    Column("clip_id", String, nullable=False, unique=True),
    Column("capture_date", String, nullable=False, index=True),
    Column("received_at", String, nullable=False),
    Column("event", JSON, nullable=False),  # CaptureEvent
    Column("blob_key", String, nullable=False),  # audio as received, encrypted under the subject's key
    Column("sha256", String, nullable=False),  # of the audio bytes as received
    Column("size", Integer, nullable=False),
    Column("state", String, nullable=False, default="new", index=True),  # new | catalogued | quarantined | erased
)

clips = Table(
    "clips",
    catalogue,
    Column("clip_id", String, primary_key=True),
    Column("content_sha256", String, nullable=False, index=True),  # of the decoded PCM16 samples
    Column("subject_token", String, nullable=False, index=True),
    Column("consent_id", String, nullable=False),
    Column("capture_date", String, nullable=False, index=True),
    Column("captured_at", String, nullable=False),
    Column("received_at", String, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("device_class", String, nullable=False),
    Column("os", String, nullable=False),
    Column("app_version", String, nullable=False),
    Column("microphone", String, nullable=False),
    Column("locale", String, nullable=False),
    Column("accent", String, nullable=False, default=""),
    Column("gender", String, nullable=False, default=""),
    Column("age", String, nullable=False, default=""),
    Column("source", String, nullable=False, default="device"),
    Column("failure_mode", String, nullable=False),
    Column("model_version", String),
    Column("hypothesis", Text),
    Column("confidence", Float),
    Column("latency_ms", Float),
    Column("blob_key", String, nullable=False),
    Column("erased_at", String),
)

quarantine = Table(
    "quarantine",
    catalogue,
    Column("event_id", String, primary_key=True),
    Column("clip_id", String, nullable=False),
    Column("capture_date", String, nullable=False, index=True),
    Column("reason", String, nullable=False),
    Column("detail", Text, nullable=False),
    Column("at", String, nullable=False),
)

noises = Table(  # real noise and room impulse responses for augmentation and noisy evaluation
    "noises",
    catalogue,
    Column("noise_id", String, primary_key=True),
    Column("kind", String, nullable=False),  # noise | rir
    Column("category", String, nullable=False),
    Column("licence", String, nullable=False),
    Column("blob_key", String, nullable=False),  # FLAC, 16 kHz mono
    Column("sha256", String, nullable=False),
    Column("duration_s", Float, nullable=False),
)

# --- labeling ---------------------------------------------------------------------------------------------------------
triage = Table(
    "triage",
    catalogue,
    Column("clip_id", String, primary_key=True),
    Column("capture_date", String, nullable=False, index=True),
    Column("route", String, nullable=False, index=True),
    Column("priority", Float, nullable=False),
    Column("inclusion_probability", Float, nullable=False),
    Column("audit", Boolean, nullable=False, default=False),
    Column("selected", Boolean, nullable=False, default=False),  # within the labelling budget
    Column("reasons", JSON, nullable=False),
    Column("at", String, nullable=False),
)

label_tasks = Table(
    "label_tasks",
    catalogue,
    Column("task_id", String, primary_key=True),
    Column("clip_id", String, nullable=False, index=True),
    Column("review_pass", String, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("preview", Text),  # machine hypothesis shown to the reviewer; NULL = hidden (anchoring control)
    Column("gold_text", Text),  # known answer of a gold item that scores the reviewer
    Column("opened_at", String, nullable=False),
    Column("deadline", String, nullable=False),
    Column("leased_to", String),  # the reviewer whose screen it is on, until leased_until
    Column("leased_until", String),
    Unique("clip_id", "review_pass"),
)

reviews = Table(
    "reviews",
    catalogue,
    Column("task_id", String, primary_key=True),
    Column("clip_id", String, nullable=False, index=True),
    Column("review_pass", String, nullable=False),
    Column("reviewer", String, nullable=False, index=True),
    Column("transcript", Text, nullable=False),
    Column("unintelligible", Boolean, nullable=False, default=False),
    Column("spans", JSON, nullable=False),
    Column("submitted_at", String, nullable=False),
)

labels = Table(
    "labels",
    catalogue,
    Column("clip_id", String, primary_key=True),
    Column("text", Text, nullable=False),  # normalised
    Column("raw_text", Text, nullable=False),
    Column("normaliser_version", String, nullable=False),  # speech.normalise.label_form: rules and alphabet
    Column("method", String, nullable=False),
    Column("reviewers", JSON, nullable=False),
    Column("approved_at", String, nullable=False),
    Column("batch_id", String, index=True),
)

batches = Table(
    "batches",
    catalogue,
    Column("batch_id", String, primary_key=True),
    Column("closed_at", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("clips", Integer, nullable=False),
    Column("cause", String, nullable=False),  # reviews | incident:<id>
)

# --- dataset ----------------------------------------------------------------------------------------------------------
speaker_splits = Table(  # sticky: a speaker's split never changes
    "speaker_splits",
    catalogue,
    Column("subject_token", String, primary_key=True),
    Column("split", String, nullable=False),
    Column("assigned_at", String, nullable=False),
)

dataset_versions = Table(
    "dataset_versions",
    catalogue,
    Column("dataset_version", String, primary_key=True),
    Column("dvc_md5", String, nullable=False, unique=True),
    Column("parent", String),
    Column("batches", JSON, nullable=False),
    Column("clips", Integer, nullable=False),
    Column("manifest_sha256", String, nullable=False),
    Column("validation", JSON, nullable=False),  # the Great Expectations result, summarised; `alphabet` of the texts
    Column("created_at", String, nullable=False),
    Column("sequence", Integer, nullable=False, unique=True),
)

dataset_clips = Table(
    "dataset_clips",
    catalogue,
    Column("dataset_version", String, primary_key=True),
    Column("clip_id", String, primary_key=True),
    Column("subject_token", String, nullable=False, index=True),
    Column("consent_id", String, nullable=False),
    Column("split", String, nullable=False),
    Column("batch_id", String, nullable=False),
)

eval_suites = Table(
    "eval_suites",
    catalogue,
    Column("suite_id", String, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("dataset_version", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("suite", JSON, nullable=False),  # EvalSuite
    Column("created_at", String, nullable=False),
)

# --- features ---------------------------------------------------------------------------------------------------------
clip_features = Table(
    "clip_features",
    catalogue,
    Column("clip_id", String, primary_key=True),
    Column("capture_date", String, nullable=False, index=True),
    Column("values", JSON, nullable=False),  # AcousticMeasures
    Column("known_at", String, nullable=False),
)

training_frames = Table(
    "training_frames",
    catalogue,
    Column("dataset_version", String, primary_key=True),
    Column("feature_schema_version", String, primary_key=True),
    Column("uri", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("created_at", String, nullable=False),
)

# --- training ---------------------------------------------------------------------------------------------------------
retrain_decisions = Table(
    "retrain_decisions",
    catalogue,
    Column("decision_id", String, primary_key=True),  # digest of the cause
    Column("cause", JSON, nullable=False),
    Column("approved", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("model_version", String),
    Column("at", String, nullable=False),
)

models = Table(
    "models",
    catalogue,
    Column("model_version", String, primary_key=True),
    Column("spec_digest", String, nullable=False, unique=True),
    Column("spec", JSON, nullable=False),  # TrainingSpec
    Column("dataset_version", String, nullable=False, index=True),
    Column("parent_model_version", String),
    Column("decision_id", String),
    Column("state", String, nullable=False),  # planned | trained
    Column("cause", JSON, nullable=False),  # what asked for it: manual, batch, incident …
    Column("checkpoint_sha256", String),
    Column("confidence_sha256", String),
    Column("mlflow_run_id", String),
    Column("metrics", JSON),
    Column("planned_at", String, nullable=False),
    Column("trained_at", String),
)

evaluations = Table(
    "evaluations",
    catalogue,
    Column("model_version", String, primary_key=True),
    Column("variant", String, primary_key=True),
    Column("suite_digest", String, primary_key=True),
    Column("suite_id", String, nullable=False),
    Column("artifact_sha256", String, nullable=False),
    Column("report", JSON, nullable=False),  # EvaluationReport
    Column("created_at", String, nullable=False),
)

# --- packaging --------------------------------------------------------------------------------------------------------
bundles = Table(
    "bundles",
    catalogue,
    Column("bundle_digest", String, primary_key=True),
    Column("model_version", String, nullable=False, unique=True),
    Column("uri", String, nullable=False),  # folder
    Column("manifest", JSON, nullable=False),  # BundleManifest
    Column("size", Integer, nullable=False),
    Column("published_at", String),
    Column("created_at", String, nullable=False),
)

# --- release ----------------------------------------------------------------------------------------------------------
verdicts = Table(
    "verdicts",
    catalogue,
    Column("bundle_digest", String, primary_key=True),
    Column("policy_digest", String, primary_key=True),
    Column("gate", String, primary_key=True),
    Column("verdict", JSON, nullable=False),  # Verdict
    Column("at", String, nullable=False),
)

decisions = Table(  # what people said; a sensor picks them up
    "decisions",
    catalogue,
    Column("decision_id", String, primary_key=True),
    Column("release_id", String, nullable=False, index=True),
    Column("decision", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", String, nullable=False),
    Column("applied_seq", Integer),  # ledger line that acted on it
)

ledger = Table(
    "ledger",
    catalogue,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("prev_hash", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
    Column("at", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("payload", Text, nullable=False),  # canonical JSON, hashed as stored
)
Index("ix_ledger_subject", ledger.c.kind, ledger.c.subject)

devices = Table(
    "devices",
    catalogue,
    Column("device_id", String, primary_key=True),
    Column("context", JSON, nullable=False),  # DeviceContext
    Column("model_version", String),  # last reported as running
    Column("first_seen", String, nullable=False),
    Column("last_seen", String, nullable=False),
)

# --- monitoring -------------------------------------------------------------------------------------------------------
telemetry = Table(
    "telemetry",
    catalogue,
    Column("event_id", String, primary_key=True),
    Column("received_at", String),
    Column("day", String, nullable=False),
    Column("at", String, nullable=False),
    Column("device_id", String, nullable=False),
    Column("model_version", String, nullable=False),
    Column("release_id", String),
    Column("event", JSON, nullable=False),  # TelemetryEvent
)
Index("ix_telemetry_day", telemetry.c.day, telemetry.c.model_version)
Index("ix_telemetry_model", telemetry.c.model_version, telemetry.c.at)
Index("ix_telemetry_release", telemetry.c.release_id, telemetry.c.at)

telemetry_windows = Table(
    "telemetry_windows",
    catalogue,
    Column("day", String, primary_key=True),
    Column("cohort", String, primary_key=True),
    Column("feature", String, primary_key=True),
    Column("model_version", String, primary_key=True),
    Column("n", Integer, nullable=False),
    Column("sketch", LargeBinary, nullable=False),  # Apache DataSketches KLL
)

reports = Table(
    "reports",
    catalogue,
    Column("kind", String, primary_key=True),  # drift | concept_drift | quality
    Column("day", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("report", JSON, nullable=False),
    Column("at", String, nullable=False),
)

incidents = Table(
    "incidents",
    catalogue,
    Column("incident_id", String, primary_key=True),
    Column("kind", String, nullable=False, index=True),
    Column("cause_digest", String, nullable=False, unique=True),
    Column("model_version", String),
    Column("action", String, nullable=False),
    Column("summary", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("opened_at", String, nullable=False),
    Column("closed_at", String),
)

alerts = Table(
    "alerts",
    catalogue,
    Column("alert_id", String, primary_key=True),  # digest of what caused it
    Column("at", String, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("delivered", Boolean, nullable=False, default=False),
)
