"""Labs that outlive the command that made them: who keeps them, where they are listed, how they are asked."""
