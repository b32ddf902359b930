# A STUB of nixpkgs' builder of images: what it was asked for.
args: "/stub/${args.name}?${args.partitionTableType}&${args.bootSize}&${args.format}"
