"""The scripted IKE peer: IKEv1 and IKEv2 in every NAT-T version, well- and ill-behaved."""
