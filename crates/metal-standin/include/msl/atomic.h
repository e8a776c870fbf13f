// atomic
