"""Kinds of models: trees and linear models, each in one place."""
