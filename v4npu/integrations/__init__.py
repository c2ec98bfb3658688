"""v4npu behind other projects' interfaces; each module imports its project when it is used."""
