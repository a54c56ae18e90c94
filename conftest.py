"""The plugin itself comes by its entry point; what is here is for the project's own tests."""

pytest_plugins = ["pytester"]
