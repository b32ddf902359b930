{ fabrik.cni = "none"; }
