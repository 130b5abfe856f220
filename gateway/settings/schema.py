"""All settings together."""

from collections import Counter
from typing import Annotated

from pydantic import AfterValidator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.settings.integrity import IntegritySettings, TunnelSettings
from gateway.settings.table import contradiction
from gateway.settings.tables import (
    CatalogSettings,
    KeysSettings,
    LimitsSettings,
    ListenSettings,
    LogSettings,
    OllamaSettings,
    ProxiesSettings,
    SchedulerSettings,
    StateSettings,
)
from gateway.settings.timeouts import ModelRule, TimeoutsSettings


def _each_counts(rules: tuple[ModelRule, ...]) -> tuple[ModelRule, ...]:
    pattern, times = Counter(rule.match for rule in rules).most_common(1)[0] if rules else ("", 0)
    if times > 1:
        raise contradiction(f'has two entries with match = "{pattern}": only the first would count')
    return rules


class Settings(BaseSettings):
    """All settings, frozen. ``gateway.settings.load`` makes one from file and environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    listen: ListenSettings = ListenSettings()
    ollama: OllamaSettings = OllamaSettings()
    keys: KeysSettings = KeysSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    limits: LimitsSettings = LimitsSettings()
    timeouts: TimeoutsSettings = TimeoutsSettings()
    models: Annotated[tuple[ModelRule, ...], AfterValidator(_each_counts)] = ()
    tunnel: TunnelSettings = TunnelSettings()
    integrity: IntegritySettings = IntegritySettings()
    catalog: CatalogSettings = CatalogSettings()
    proxies: ProxiesSettings = ProxiesSettings()
    state: StateSettings = StateSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: what comes from where is the business of ``load``.

        It refuses unknown variables, which the library's own source passes over, and it reports
        mistakes of file and environment together.
        """
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)
