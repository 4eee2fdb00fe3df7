"""The doorway to Celery and Redis: queues carry tickets, and a ticket says only that its queue has work."""

import logging

from celery import Celery
from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import RedisError

from common.errors import ServiceUnavailable
from common.vocabulary import Pool

log = logging.getLogger(__name__)

TICKETS: dict[Pool, str] = {Pool.DOWNLOAD: "modelferry.download", Pool.CONVERT: "modelferry.convert"}
"""The name of each pool's task, as Flower shows it."""

_TIMEOUT_S = 2


def make_celery(redis_url: str, *, consumer: bool) -> Celery:
    """The Celery application. Every setting that could run, lose or hold work on its own is off.

    Results, acknowledgement after the work, countdowns, retries and priorities of Celery are not used:
    the job table does all of that, and a ticket that is lost or doubled changes nothing but latency.
    """
    app = Celery("modelferry", broker=redis_url)
    app.conf.update(
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=_TIMEOUT_S,
        task_publish_retry=False,
        broker_transport_options={
            # A sender tries once: a POST must not wait for a queue that is away.
            **({} if consumer else {"max_retries": 0}),
            "visibility_timeout": 3600,
            "socket_timeout": 5 if consumer else _TIMEOUT_S,
            "socket_connect_timeout": _TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        task_default_queue=Pool.DOWNLOAD.value,
        task_routes={name: {"queue": pool.value} for pool, name in TICKETS.items()},
        worker_send_task_events=True,
        task_send_sent_event=True,
        task_serializer="json",
        accept_content=["json"],
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


class Broker:
    """Sends tickets and looks at queues. Redis may be away at any time: that costs delay, never work."""

    def __init__(self, redis_url: str) -> None:
        self._app = make_celery(redis_url, consumer=False)
        self._redis = Redis.from_url(redis_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)

    def enqueue(self, pool: Pool) -> bool:
        """Send one ticket, best effort. False when Redis is away: the reconciler will send it later."""
        try:
            self._app.send_task(TICKETS[pool])
        except (KombuError, RedisError, OSError) as error:
            log.warning("ticket.unsent", extra={"pool": pool, "reason": type(error).__name__})
            return False
        return True

    def depth(self, pool: Pool) -> int | None:
        """How many tickets wait for a pool, or None when Redis is away."""
        try:
            return int(self._redis.llen(pool.value))
        except (RedisError, OSError):
            return None

    def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self._redis.ping())
        except (RedisError, OSError):
            return False

    def facts(self) -> dict[str, object]:
        """What Redis says of itself, in its own words. Raises ServiceUnavailable, which names no address."""
        try:
            return {str(name): value for name, value in self._redis.info().items()}
        except (RedisError, OSError) as error:
            raise ServiceUnavailable(f"Redis does not answer ({type(error).__name__})") from error
