"""The closed sets of words that rows, JSON and code share."""

from enum import StrEnum


class JobState(StrEnum):
    """What a client sees of a job."""

    QUEUED = "queued"
    DOWNLOADING = "downloading"
    CONVERTING = "converting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


class StageKind(StrEnum):
    """One step of a job."""

    ASK = "ask"
    PLAN = "plan"
    FETCH = "fetch"
    CONVERT = "convert"
    PUBLISH = "publish"


BRIEF = frozenset({StageKind.PLAN, StageKind.ASK, StageKind.PUBLISH})
"""What is over in a moment, and must not wait until a long transfer ends."""


class StageState(StrEnum):
    """Where a stage is in its life; `lifecycle.NEXT` says what may follow."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Pool(StrEnum):
    """Workers of one kind. A pool's name is the name of its queue."""

    DOWNLOAD = "download"
    CONVERT = "convert"


class Priority(StrEnum):
    """Which jobs go first. Within one priority, those who ask take turns."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class LimitScope(StrEnum):
    """What a limit of the operator is about."""

    SERVICE = "service"
    """All transfers together; the limit's name is `*`."""
    HUB = "hub"
    TENANT = "tenant"
    POOL = "pool"


class Role(StrEnum):
    """What a caller may do. Each may do what the ones before it may."""

    VIEWER = "viewer"
    """Look at everything but keys, webhooks and the audit trail."""
    OPERATOR = "operator"
    """Start, cancel and retry jobs; put gates; upload and remove models."""
    ADMIN = "admin"
    """Keys, webhooks, limits, and the audit trail."""

    def covers(self, needed: "Role") -> bool:
        """Whether this role is enough where that one is needed."""
        roles = list(Role)
        return roles.index(self) >= roles.index(needed)


class Operation(StrEnum):
    """What a job was asked to do, in the words of the wire contract."""

    DOWNLOAD = "download"
    CONVERT = "convert"
    UPLOAD = "upload"
    """To publish what a client has sent. Such a job is completed from its first moment."""
    PLAN = "plan"
    """To find out what a job would do. Clients of the contract never see such jobs."""
    ASK = "ask"
    """To ask a hub something while a client waits. Nobody else sees such jobs."""


HIDDEN = frozenset({Operation.PLAN, Operation.ASK})
"""What is done for the one who waits for it, and is in no list of jobs."""


class Phase(StrEnum):
    """What a stage is doing right now; it explains a state and never drives one."""

    WAITING = "waiting"
    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    CONVERTING = "converting"
    CHECKING = "checking"
    PUBLISHING = "publishing"
    DONE = "done"


class ModelType(StrEnum):
    """What a model is for."""

    LLM = "llm"
    VLM = "vlm"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    IMAGE_GENERATION = "image_generation"
    TEXT2SPEECH = "text2speech"
    SPEECH2TEXT = "speech2text"
    VISION = "vision"
    POSE_3D = "3d-pose"
    RPPG = "rppg"
    AI_ECG = "ai-ecg"


class Precision(StrEnum):
    """The number format of a converted model: of its weights, and where there are two words, of its activations."""

    INT4 = "int4"
    INT8 = "int8"
    FP16 = "fp16"
    FP32 = "fp32"
    MXFP4 = "mxfp4"
    NF4 = "nf4"
    CB4 = "cb4"
    F8E4M3 = "f8e4m3"
    F8E5M2 = "f8e5m2"
    CB4_F8E4M3 = "cb4_f8e4m3"
    INT4_F8E4M3 = "int4_f8e4m3"
    INT4_F8E5M2 = "int4_f8e5m2"


class Format(StrEnum):
    """The form a model's files have."""

    TRANSFORMERS = "transformers"
    OPENVINO = "openvino"
    GGUF = "gguf"
    PYTORCH = "pytorch"
    """A checkpoint of one library's own."""
    ARCHIVE = "archive"
    """Files of any kind."""


class DigestAlgorithm(StrEnum):
    """How a hub names the content of a file."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    GIT_SHA1 = "git-sha1"
    """sha1 over `blob <length>\\0` and the bytes: what git, and so a hub, calls the id of a small file."""
