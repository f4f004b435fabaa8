"""One model call: what is asked, where it goes, what a failure means, what is stored and paid."""
