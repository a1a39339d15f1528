"""The shell: settings, one cycle through the stages, the command line, reports."""
