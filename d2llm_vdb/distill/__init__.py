"""Distillation of students."""
