"""An engine whose devices belong to several processes: one plans and publishes, all apply."""
