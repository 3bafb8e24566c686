import plivo.rest.client as sdk


def use(base):
    sdk.PLIVO_API_BASE_URI = sdk.API_VOICE_BASE_URI = f"{base}/v1/Account"
    sdk.API_VOICE_BASE_URI_FALLBACK_1 = sdk.API_VOICE_BASE_URI_FALLBACK_2 = f"{base}/v1/Account"
