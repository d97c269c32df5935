"""The short import that the documentation and people's scripts use."""


def test_model_config_is_imported_from_the_package():
    from funnel import ModelConfig as from_funnel
    from funnel.config import ModelConfig

    assert ModelConfig is from_funnel
