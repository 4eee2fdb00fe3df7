"""The Celery application of the workers, for `celery -A worker.celery_app` tools such as Flower and inspect."""

from common.broker import make_celery
from common.settings import read_settings

app = make_celery(read_settings().redis_url, consumer=True)
