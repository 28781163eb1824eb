"""A results folder in forms that other tools read; nothing here changes the folder."""
