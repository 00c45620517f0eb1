"""The ``amplitude_emulator`` pytest fixture."""
