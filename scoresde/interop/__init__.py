"""Models and samplers in other libraries' formats. Each module is imported by its name: `from scoresde.interop import pretrained`."""
