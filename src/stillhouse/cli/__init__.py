"""The command `stillhouse`: one file a command. Nothing heavy is imported before it is used."""
