"""The error tree. An error knows its public code and a hint for the user, never an HTTP status.

ModelferryError
├── RequestError          the caller can mend it; nothing was stored
│   ├── InvalidSpec           unusable values in a request
│   ├── PluginUnavailable     the hub or converter is not offered here
│   ├── DestinationOutside    a path that leaves MODELS_DIR
│   ├── DestinationInvalid    a path that no file system takes
│   ├── NoSuchJob
│   ├── JobEnded              cancelling what has already ended
│   ├── NotCancellable        cancelling what is being published this instant
│   ├── JobActive             forgetting or retrying what has not ended
│   ├── NotRetryable          retrying what is completed
│   ├── NothingMade           asking how something was made that is not there
│   ├── KeyInFlight           an Idempotency-Key whose first request is not answered yet
│   ├── KeyReused             an Idempotency-Key that stood on another request
│   ├── NoSuchLimit
│   ├── NoSuchGate
│   ├── GatesFull             one gate more than there may be
│   ├── NoSuchWebhook         also where it has no such delivery
│   ├── WebhooksFull          one webhook more than there may be
│   ├── WebhookOff            sending something to a webhook that is not enabled
│   ├── WebhookUnreadable     changing a webhook that was sealed with another key
│   ├── UploadRefused         an upload that cannot be a model
│   ├── UploadTooLarge        an upload beyond what is taken
│   ├── ModelExists           uploading a model to where one is
│   ├── NoSuchModel           no directory on the volume has this id
│   ├── HubCannotList         listing what has no list
│   ├── CredentialsRefused    a listing for which the hub wants other credentials
│   ├── CredentialsInvalid    credentials that were to be checked, and did not pass
│   ├── Unauthenticated       a caller who has not said who it is, or not truly
│   ├── Forbidden             a caller who may not do that
│   ├── TooManyRequests       a caller who asks more often than it may
│   ├── UnknownHost           a request by a name that is none of this service's
│   ├── NoSuchKey             no API key has this id, or it lets nobody in any more
│   ├── KeysFull              one API key more than there may be
│   ├── NotManaged            removing or checking what Modelferry has not published
│   └── ModelBusy             a model that is being published this instant, or by an active job
├── ServiceUnavailable    the database cannot take the request now; nothing was stored
├── StageError            why one attempt at a stage ended badly
│   ├── TransientError        worth another attempt after `wait_s`
│   └── PermanentError        another attempt would end the same way
└── JobCancelled          the user has changed their mind; raised by `Attempt.checkpoint`

Codes are public and frozen: clients and the troubleshooting page refer to them.
"""

import errno
from typing import ClassVar


class ModelferryError(Exception):
    """The root of every error that Modelferry raises on purpose."""


class RequestError(ModelferryError):
    """The caller asked for something that cannot be; nothing was stored."""

    code: ClassVar[str] = "invalid_request"


class InvalidSpec(RequestError):
    """The request asks for a combination or a value that no plugin takes."""

    code = "invalid_spec"


class PluginUnavailable(RequestError):
    """The hub or converter is not installed or not enabled here."""

    code = "plugin_unavailable"


class DestinationOutside(RequestError):
    """The destination is not below MODELS_DIR."""

    code = "destination_outside"


class DestinationInvalid(RequestError):
    """The destination is no usable path."""

    code = "destination_invalid"


class NoSuchJob(RequestError):
    """No job has this id."""

    code = "no_such_job"


class JobEnded(RequestError):
    """The job has already ended."""

    code = "job_ended"

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"Job {job_id} is already in terminal state '{state}' and cannot be cancelled")
        self.state = state


class NotCancellable(RequestError):
    """The job is past the point of no return."""

    code = "not_cancellable"


class JobActive(RequestError):
    """The job has not ended yet."""

    code = "job_active"


class NotRetryable(RequestError):
    """There is nothing to try again."""

    code = "not_retryable"


class NothingMade(RequestError):
    """The job has left nothing, or its record is gone."""

    code = "nothing_made"


class KeyInFlight(RequestError):
    """The first request with this Idempotency-Key is not answered yet."""

    code = "idempotency_key_in_flight"


class KeyReused(RequestError):
    """The Idempotency-Key stood on a request with another body."""

    code = "idempotency_key_reused"


class NoSuchLimit(RequestError):
    """No such limit is set."""

    code = "no_such_limit"


class NoSuchWebhook(RequestError):
    """No webhook has this id, or it has no such delivery."""

    code = "no_such_webhook"


class WebhooksFull(RequestError):
    """There are as many webhooks as there may be."""

    code = "webhooks_full"


class WebhookOff(RequestError):
    """Nothing is sent to a webhook that is not enabled."""

    code = "webhook_off"


class WebhookUnreadable(RequestError):
    """What is kept of the webhook was sealed with another key."""

    code = "webhook_unreadable"


class NoSuchGate(RequestError):
    """No gate has this name."""

    code = "no_such_gate"


class GatesFull(RequestError):
    """There are as many gates as there may be."""

    code = "gates_full"


class UploadRefused(RequestError):
    """The upload is no archive of a model, or its names cannot be used."""

    code = "upload_refused"


class UploadTooLarge(RequestError):
    """The upload is larger than the operator allows, as it came or unpacked."""

    code = "upload_too_large"


class ModelExists(RequestError):
    """There is something already where the upload would be published."""

    code = "model_exists"


class NoSuchModel(RequestError):
    """No model on the volume has this id."""

    code = "no_such_model"


class NotManaged(RequestError):
    """The directory was not published by Modelferry, which therefore leaves it alone."""

    code = "not_managed"


class ModelBusy(RequestError):
    """Somebody else is at work on this model's directory."""

    code = "model_busy"


class HubCannotList(RequestError):
    """The hub is known, and has no list of its models."""

    code = "listing_unsupported"


class Unauthenticated(RequestError):
    """The caller has not said who it is, or cannot be believed."""

    code = "unauthenticated"


class Forbidden(RequestError):
    """The caller is known, and may not do that."""

    code = "forbidden"


class TooManyRequests(RequestError):
    """The caller asks more often than the operator allows."""

    code = "too_many_requests"

    def __init__(self, message: str, wait_s: float, most: int | None = None) -> None:
        """`most` is how many requests are allowed, where that is the operator's word."""
        super().__init__(message)
        self.wait_s = wait_s
        self.most = most


class UnknownHost(RequestError):
    """The request calls the service by a name that it does not go by."""

    code = "unknown_host"


class NoSuchKey(RequestError):
    """No API key has this id, or it lets nobody in any more."""

    code = "no_such_key"


class KeysFull(RequestError):
    """There are as many API keys as there may be."""

    code = "keys_full"


class CredentialsRefused(RequestError):
    """The hub wants other credentials for its list."""

    code = "credentials_refused"


class CredentialsInvalid(RequestError):
    """The credentials were to be checked before a job is made, and the hub does not know them, or nobody can tell."""

    code = "credentials_invalid"


class ServiceUnavailable(ModelferryError):
    """The job table cannot be reached; the request was not stored."""

    code: ClassVar[str] = "service_unavailable"


class JobCancelled(ModelferryError):
    """Every job that wanted this stage was cancelled."""


class StageError(ModelferryError):
    """Why an attempt ended badly. `code` is stable, `hint` tells the user what to do."""

    code: ClassVar[str] = "internal"
    hint: ClassVar[str] = "This is a fault in Modelferry; the worker's log has the traceback."

    def __init__(self, detail: str, *, hint: str | None = None) -> None:
        super().__init__(detail)
        self.advice = hint or self.hint


class TransientError(StageError):
    """Worth another attempt. `wait_s` is the hub's own wish in seconds, or None for the usual back-off."""

    code = "transient"
    hint = "Modelferry tries again by itself."

    def __init__(self, detail: str, *, hint: str | None = None, wait_s: float | None = None) -> None:
        super().__init__(detail, hint=hint)
        self.wait_s = wait_s


class PermanentError(StageError):
    """Another attempt would end the same way."""


class RateLimited(TransientError):
    """The hub answered 429."""

    code = "rate_limited"
    hint = "The hub limits how often it may be asked from this address. Wait, or use credentials with a larger quota."


class HubUnavailable(TransientError):
    """The hub cannot be reached or answers 5xx."""

    code = "hub_unavailable"
    hint = "Check that the hub is up and that this machine may reach it: its address in the settings, HTTPS_PROXY."


class TransferStalled(TransientError):
    """Bytes stopped coming and reconnecting did not help."""

    code = "transfer_stalled"
    hint = "The connection to the hub is dead or very slow. What has arrived is kept; the next attempt goes on there."


class SourceNotFound(PermanentError):
    """The hub knows no such model."""

    code = "source_not_found"
    hint = "Check the spelling of the model's name, including its organisation."


class SourcePrivateOrMissing(PermanentError):
    """The hub refuses to say whether the model exists."""

    code = "source_private_or_missing"
    hint = "The model does not exist, or it is private: check its name, or set HF_TOKEN to a token that may read it."


class RevisionNotFound(PermanentError):
    """The model exists, but not in this revision."""

    code = "revision_not_found"
    hint = "Give an existing branch, tag or full commit hash as revision."


class SourceGated(PermanentError):
    """The model's licence must be accepted first."""

    code = "source_gated"
    hint = "Accept the model's terms on its page at the hub, then set HF_TOKEN to a token of that account."


class TokenInvalid(PermanentError):
    """The hub does not know the token."""

    code = "token_invalid"
    hint = "Create a new access token at the hub and set HF_TOKEN to it."


class SourceDisabled(PermanentError):
    """The hub has taken the model out of service."""

    code = "source_disabled"
    hint = "The hub no longer serves this model."


class SourceUnsafe(PermanentError):
    """The hub names something that must not be trusted: a file, a digest, or an address."""

    code = "source_unsafe"
    hint = "The hub or a mirror sent something dangerous: a file name, a digest or an address. Do not use this source."


class NothingToFetch(PermanentError):
    """The source holds no files of the wanted kind."""

    code = "nothing_to_fetch"
    hint = "Check that the repository holds model weights, and the include and exclude patterns."


class NotConverted(PermanentError):
    """A pre-converted model was asked for, but the repository holds none."""

    code = "not_openvino"
    hint = "Set is_ovms to true to convert the model, or use hub 'huggingface' to download it as it is."


class IntegrityMismatch(PermanentError):
    """Bytes arrived, but not the ones the hub promised."""

    code = "integrity_mismatch"
    hint = (
        "The content differs from the hub's own digest, twice. A proxy or mirror in between alters or truncates files."
    )


class DiskFull(PermanentError):
    """The volume has no room."""

    code = "disk_full"
    hint = "Free space on the models volume or make it larger, then submit again: what has arrived is kept."


class UnsupportedModel(PermanentError):
    """The installed tools cannot convert this architecture."""

    code = "unsupported_architecture"
    hint = "Check the model's architecture and type, or look for a pre-converted model of hub 'openvino'."


class InvalidParameters(PermanentError):
    """The tools refuse these options for this model."""

    code = "invalid_parameters"
    hint = "Change the options in 'config' as the message says."


class OutOfMemory(PermanentError):
    """The machine, or the container, had no memory left."""

    code = "out_of_memory"
    hint = "Give the convert worker more memory, convert fewer models at once, or choose a smaller model."


class MemoryLimitExceeded(PermanentError):
    """The conversion needed more memory than the operator allows."""

    code = "memory_limit_exceeded"
    hint = "Raise MODELFERRY_CONVERT_MEMORY_MB if the machine has more memory, or choose a smaller model."


class ConversionFailed(PermanentError):
    """The conversion tool failed."""

    code = "conversion_failed"
    hint = "The message holds the end of the tool's own output."


class OutputIncomplete(PermanentError):
    """The conversion ended without the files it must leave."""

    code = "output_incomplete"
    hint = "Nothing was published. Report this with the model's name and the options used."


class VerificationFailed(PermanentError):
    """The converted model does not load or does not run."""

    code = "verification_failed"
    hint = "Nothing was published. Try another precision, and report the model's name."


class RemoteCodeRefused(PermanentError):
    """The model brings its own Python code, which is not run here."""

    code = "remote_code_refused"
    hint = "An operator can allow this repository with MODELFERRY_TRUST_REMOTE_CODE."


class PickleRefused(PermanentError):
    """The weights are pickles, which are programs."""

    code = "pickle_refused"
    hint = "Look for a repository with safetensors, or let an operator allow this one with MODELFERRY_ALLOW_PICKLE."


class CredentialsLost(PermanentError):
    """The credentials that came with a job's request cannot be had any more."""

    code = "credentials_lost"
    hint = (
        "Submit the model again with its credentials. If this happens to every such job, the API and the workers "
        "do not share one MODELFERRY_SECRET_KEY, or one MODELS_DIR."
    )


class ContentLost(PermanentError):
    """Content that an earlier stage stored is no longer there."""

    code = "content_lost"
    hint = "The content store was cleaned while the job was waiting. Submit the job again."


class PublicationRefused(PermanentError):
    """The destination cannot take the model."""

    code = "publication_refused"
    hint = "Another file or folder is in the way at the destination, or its config_all.json is not valid JSON."


class ChildCrashed(TransientError):
    """The stage's process died."""

    code = "child_crashed"
    hint = "The process that did the work died without a word; the worker's log holds its last output."


class WorkerLost(PermanentError):
    """The stage was lost with its worker more often than is allowed."""

    code = "worker_lost"
    hint = "Each worker that ran this stage died. Look for the kernel's out-of-memory messages on the worker's machine."


class PluginNotInstalled(PermanentError):
    """The worker lacks the libraries of this plugin."""

    code = "plugin_not_installed"
    hint = "Install the plugin's extra in the worker's environment."


class Internal(PermanentError):
    """A fault of our own."""


def is_disk_full(error: BaseException) -> bool:
    """Whether this is how an operating system says that there is no room: on a volume, in a quota, or for one file."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
