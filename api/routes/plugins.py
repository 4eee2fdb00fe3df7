"""Plugins: what may be asked for here."""

from litestar import get
from litestar.di import NamedDependency

from api.usecases import Jobs
from api.views import plugin_page
from api.wire import PluginPage


@get("/plugins", sync_to_thread=False, tags=["plugins"], summary="List hubs and converters")
def list_plugins(jobs: NamedDependency[Jobs]) -> PluginPage:
    return plugin_page(jobs.catalog.entries())
