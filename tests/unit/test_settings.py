"""Settings are read once from the environment, typed, and refuse what they do not know."""

from pathlib import Path

import pytest

from common.settings import VARIABLES, Settings, SettingsError, read_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()


def test_an_empty_value_counts_as_unset() -> None:
    assert read_settings({"PORT": "", "HF_TOKEN": ""}) == Settings()


def test_values_are_typed() -> None:
    settings = read_settings(
        {
            "MODELS_DIR": "/srv/models",
            "PORT": "9000",
            "MODELFERRY_STALL_S": "2.5",
            "MODELFERRY_LOG_FORMAT": "json",
        }
    )
    assert settings.models_dir == Path("/srv/models")
    assert settings.port == 9000
    assert settings.stall_s == 2.5
    assert settings.log_format == "json"


def test_an_unknown_variable_of_ours_is_named() -> None:
    with pytest.raises(SettingsError, match="MODELFERRY_DOWNLOAD_SLOT is not a setting"):
        read_settings({"MODELFERRY_DOWNLOAD_SLOT": "4"})


def test_variables_of_others_are_left_alone() -> None:
    assert read_settings({"OTEL_SERVICE_NAME": "x", "PATH": "/bin"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("MODELFERRY_LOG_LEVEL", "loud"),
        ("MODELFERRY_STALL_S", "soon"),
        ("MODELFERRY_DOWNLOAD_SLOTS", "0"),
        ("MODELFERRY_RECONCILE_S", "-1"),
        ("MODELFERRY_SPARE_MB", "-1"),
        ("MODELFERRY_CONVERT_MEMORY_MB", "-1"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings({name: value})


def test_a_lease_must_outlive_a_missed_heartbeat() -> None:
    with pytest.raises(SettingsError, match="MODELFERRY_LEASE_S"):
        read_settings({"MODELFERRY_LEASE_S": "2", "MODELFERRY_HEARTBEAT_S": "1"})


def test_the_token_may_come_under_its_older_name() -> None:
    assert read_settings({"HUGGINGFACEHUB_API_TOKEN": "hf_old"}).hf_token == "hf_old"
    assert read_settings({"HUGGINGFACEHUB_API_TOKEN": "hf_old", "HF_TOKEN": "hf_new"}).hf_token == "hf_new"


def test_the_token_is_not_shown() -> None:
    assert "hf_secret" not in repr(read_settings({"HF_TOKEN": "hf_secret"}))


def test_only_the_token_is_a_secret_of_plugins() -> None:
    settings = read_settings({"HF_TOKEN": "hf_secret", "HF_ENDPOINT": "http://127.0.0.1:1"})
    assert settings.plugin_secrets == {"HF_TOKEN": "hf_secret"}
    assert "hf_secret" not in settings.plugin_settings.values()
    assert settings.plugin_settings["HF_ENDPOINT"] == "http://127.0.0.1:1"


def test_the_database_defaults_to_a_file_beside_the_models() -> None:
    settings = read_settings({"MODELS_DIR": "/srv/models"})
    assert settings.store_url == "sqlite:////srv/models/.modelferry/state/modelferry.db"
    given = read_settings({"DATABASE_URL": "postgresql+psycopg://db/jobs"})
    assert given.store_url == "postgresql+psycopg://db/jobs"


def test_every_field_has_exactly_one_variable() -> None:
    assert sorted(VARIABLES.values()) == sorted(Settings.__struct_fields__)
    assert len(set(VARIABLES)) == len(VARIABLES)


def test_no_credential_is_in_the_picture_of_the_settings() -> None:
    shown = repr(
        read_settings(
            {
                "HF_TOKEN": "hf_planted1",
                "DATABASE_URL": "postgresql://me:planted2@db/jobs",
                "REDIS_URL": "redis://:planted3@queue/0",
            }
        )
    )
    assert "planted" not in shown
    assert "db/jobs" in shown
