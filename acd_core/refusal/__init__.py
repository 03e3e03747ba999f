"""Did a reply refuse? Rules over text, without a model: at run time, in tuning and in evaluation alike."""
