"""Settings from the environment and from files; what is wrong with them; what production refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from marty_lib import Embedded, HttpSettings, OpsSettings, Section, ServiceSettings, SettingsError
from marty_lib.settings import dump, fields, load, reference
from pydantic import Field, SecretStr


class DatabaseSettings(Section):
    url: Annotated[str, Embedded("sqlite://", "Set DATABASE_URL to a PostgreSQL server")] = "sqlite://"
    """Where the data is."""
    pool_size: Annotated[int, Field(ge=1)] = 5
    """Connections at most."""
    hosts: tuple[str, ...] = ()
    """Replicas to read from."""


class AuthSettings(Section):
    secret: SecretStr = SecretStr("change-me")
    """Signs tokens."""
    pepper: SecretStr = SecretStr("")
    """Mixed into hashes."""


class Settings(ServiceSettings):
    http: HttpSettings = HttpSettings(port=8123)
    database: DatabaseSettings = DatabaseSettings()
    auth: AuthSettings = AuthSettings()


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of secret files."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("SECRETS_DIR", str(folder))
    return folder


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def refused(settings: type[ServiceSettings] = Settings) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(settings)
    assert all(name in str(caught.value) and message in str(caught.value) for name, message in caught.value.wrong)
    return dict(caught.value.wrong)


def test_without_an_environment_the_defaults_hold() -> None:
    assert load(Settings) == Settings()


@pytest.mark.parametrize("name", ["DATABASE_POOL_SIZE", "database_pool_size"])
def test_a_setting_is_named_after_section_and_field(env: pytest.MonkeyPatch, name: str) -> None:
    env.setenv(name, "7")

    assert load(Settings).database.pool_size == 7


def test_opentelemetrys_own_names_are_the_settings(env: pytest.MonkeyPatch) -> None:
    env.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    env.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")

    otel = load(Settings).otel

    assert (otel.exporter_otlp_endpoint, otel.traces_sampler_arg) == ("http://collector:4318", 0.5)


def test_a_top_level_setting_with_an_underscore_is_no_section(env: pytest.MonkeyPatch) -> None:
    env.setenv("ALLOW_EMBEDDED", "true")

    assert load(Settings).allow_embedded


def test_setting_one_field_keeps_the_services_other_defaults(env: pytest.MonkeyPatch) -> None:
    env.setenv("HTTP_HOST", "0.0.0.0")  # noqa: S104

    assert (load(Settings).http.host, load(Settings).http.port) == ("0.0.0.0", 8123)  # noqa: S104


@pytest.mark.parametrize("name", ["LOG", "HTTP", "HTTP_PROXY", "http_proxy", "LOG_FILE", "OTEL_SDK_DISABLED", "OPS"])
@pytest.mark.parametrize("value", ["", "debug", "http://proxy:3128", "[]", "{"])
def test_a_variable_meant_for_somebody_else_does_not_disturb(env: pytest.MonkeyPatch, name: str, value: str) -> None:
    env.setenv(name, value)

    assert load(Settings) == Settings()


def test_a_list_is_read_as_json(env: pytest.MonkeyPatch) -> None:
    env.setenv("DATABASE_HOSTS", '["a", "b"]')

    assert load(Settings).database.hosts == ("a", "b")


def test_a_list_that_is_not_json_is_a_wrong_setting(env: pytest.MonkeyPatch) -> None:
    env.setenv("DATABASE_HOSTS", "a,hunter2")

    assert list(refused()) == ["DATABASE_HOSTS"]


def test_a_secret_comes_from_a_file_without_its_last_line_break(secrets: Path) -> None:
    (secrets / "AUTH_SECRET").write_text("  hunter2\r\n")

    assert load(Settings).auth.secret.get_secret_value() == "  hunter2"


def test_the_environment_wins_over_a_file(secrets: Path, env: pytest.MonkeyPatch) -> None:
    (secrets / "DATABASE_POOL_SIZE").write_text("7")
    env.setenv("DATABASE_POOL_SIZE", "8")

    assert load(Settings).database.pool_size == 8


def test_one_section_may_come_from_both(secrets: Path, env: pytest.MonkeyPatch) -> None:
    (secrets / "DATABASE_URL").write_text("postgresql://db")
    env.setenv("DATABASE_POOL_SIZE", "8")

    assert (load(Settings).database.url, load(Settings).database.pool_size) == ("postgresql://db", 8)


def test_a_secret_mounted_by_kubernetes_is_a_link_into_a_hidden_folder(secrets: Path) -> None:
    (secrets / "..data").mkdir()
    (secrets / "..data" / "AUTH_SECRET").write_text("hunter2")
    (secrets / "AUTH_SECRET").symlink_to(Path("..data") / "AUTH_SECRET")

    assert load(Settings).auth.secret.get_secret_value() == "hunter2"


def test_other_files_in_the_folder_do_not_disturb(secrets: Path) -> None:
    (secrets / "store.p12").write_bytes(b"\xff\xfe\x00")
    (secrets / "kubernetes.io").mkdir()

    assert load(Settings) == Settings()


def test_an_empty_folder_name_is_not_the_current_folder(tmp_path: Path, env: pytest.MonkeyPatch) -> None:
    (tmp_path / "DATABASE_POOL_SIZE").write_text("7")
    env.chdir(tmp_path)
    env.setenv("SECRETS_DIR", "")

    assert load(Settings).database.pool_size == 5


def test_one_error_lists_every_wrong_setting(env: pytest.MonkeyPatch, secrets: Path) -> None:
    env.setenv("HTTP_PORT", "70000")
    env.setenv("OTEL_TRACES_SAMPLER_ARG", "most")
    (secrets / "DATABASE_POOL_SIZE").write_text("none")
    env.setenv("ENVIRONMENT", "prod")

    assert set(refused()) == {"HTTP_PORT", "OTEL_TRACES_SAMPLER_ARG", "DATABASE_POOL_SIZE", "ENVIRONMENT"}


def test_what_production_refuses_is_listed_with_what_is_malformed(env: pytest.MonkeyPatch) -> None:
    env.setenv("ENVIRONMENT", "production")
    env.setenv("HTTP_PORT", "http")

    assert set(refused()) == {"HTTP_PORT", "DATABASE_URL", "AUTH_SECRET"}


def test_an_error_shows_no_value(env: pytest.MonkeyPatch, secrets: Path) -> None:
    for name in ("HTTP_PORT", "DRAIN_DELAY", "LOG_LEVEL", "DEBUG", "ENVIRONMENT", "DATABASE_HOSTS"):
        env.setenv(name, "hunter2")
    (secrets / "DATABASE_POOL_SIZE").write_text("hunter2")

    with pytest.raises(SettingsError) as caught:
        load(Settings)

    assert "7 wrong settings" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("remedy", ["Set DATABASE_URL to a PostgreSQL server", "set ALLOW_EMBEDDED=true"])
def test_production_refuses_an_embedded_backend_and_names_the_remedy(env: pytest.MonkeyPatch, remedy: str) -> None:
    env.setenv("ENVIRONMENT", "production")

    assert remedy in refused()["DATABASE_URL"]


def test_production_refuses_debug(env: pytest.MonkeyPatch) -> None:
    env.setenv("ENVIRONMENT", "production")
    env.setenv("DEBUG", "true")

    assert "must be false" in refused()["DEBUG"]


def test_production_refuses_a_default_secret(env: pytest.MonkeyPatch) -> None:
    env.setenv("ENVIRONMENT", "production")

    assert "default secret" in refused()["AUTH_SECRET"]


def test_production_refuses_a_secret_that_the_service_made_its_default(env: pytest.MonkeyPatch) -> None:
    class Ours(ServiceSettings):
        auth: AuthSettings = AuthSettings(secret=SecretStr("also-known"))

    env.setenv("ENVIRONMENT", "production")

    assert list(refused(Ours)) == ["AUTH_SECRET"]


def test_production_refuses_a_default_secret_that_the_environment_repeats(env: pytest.MonkeyPatch) -> None:
    env.setenv("ENVIRONMENT", "production")
    env.setenv("AUTH_SECRET", "change-me")

    assert "AUTH_SECRET" in refused()


def test_production_takes_embedded_backends_for_a_trial(env: pytest.MonkeyPatch) -> None:
    env.setenv("ENVIRONMENT", "production")
    env.setenv("ALLOW_EMBEDDED", "true")
    env.setenv("AUTH_SECRET", "of our own")

    assert load(Settings).database.url == "sqlite://"


@pytest.mark.parametrize("environment", ["development", "staging"])
def test_elsewhere_all_of_it_is_fine(env: pytest.MonkeyPatch, environment: str) -> None:
    env.setenv("ENVIRONMENT", environment)
    env.setenv("DEBUG", "true")

    assert load(Settings).debug


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().http.port = 1


def test_a_dump_masks_secrets(env: pytest.MonkeyPatch) -> None:
    env.setenv("AUTH_SECRET", "hunter2")

    found = dump(load(Settings))

    assert "hunter2" not in str(found)
    assert (found["HTTP_PORT"], found["AUTH_SECRET"]) == (8123, "**********")


def test_the_reference_lists_every_setting_with_its_meaning() -> None:
    lines = reference(Settings()).splitlines()

    assert [line.split("`")[1] for line in lines[2:]] == [name for name, _, _ in fields(Settings())]
    assert "| `DATABASE_POOL_SIZE` | `5` | Connections at most. |" in lines


def test_every_setting_of_the_library_says_what_it_means() -> None:
    assert [name for name, field, _ in fields(Settings()) if not field.description] == []


@pytest.mark.parametrize(
    ("text", "origins"),
    [("", []), ("*", ["*"]), (" https://a.example , https://b.example,", ["https://a.example", "https://b.example"])],
)
def test_origins_are_separated_by_commas(text: str, origins: list[str]) -> None:
    assert HttpSettings(cors_origins=text).origins == origins


def test_an_argument_wins_over_the_environment(env: pytest.MonkeyPatch) -> None:
    env.setenv("OPS_PORT", "9100")

    assert ServiceSettings(ops=OpsSettings(port=0)).ops.port == 0
