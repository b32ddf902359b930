{ services.k3s.extraFlags = [ "--kubelet-arg=max-pods=200" "--tls-san=api.example.com" "--disable servicelb" ]; }
